-- The statements of erasing.py. $1 is the tenant, $2 the project.

-- name: open_erasure
-- One erasure of a user at a time: a new one, or none when one is pending.
insert into erasures (tenant, project, erasure_id, user_id, requested_by, requested_ms)
values ($1, $2, $3, $4, $5, {{now_ms}})
on conflict (user_id, tenant, project) where done_ms is null do nothing

-- name: pending_erasure
-- The one that is pending for a user, against concurrent changes.
select {{erasure_columns}} from erasures e
where e.tenant = $1 and e.project = $2 and e.user_id = $3 and e.done_ms is null for update

-- name: lock_owned
-- All conversations of a user, deleted ones too, against concurrent admissions.
select conversation_id from conversations where tenant = $1 and project = $2 and user_id = $3
order by conversation_id for no key update

-- name: mark_owned
-- Hides the conversations $4 and marks them for the erasure $3.
update conversations set erasure_id = $3, deleted_ms = coalesce(deleted_ms, {{now_ms}})
where tenant = $1 and project = $2 and conversation_id = any($4::text[])

-- name: erase_keys
-- Erases the API keys that act as a user.
delete from api_keys where tenant = $1 and project = $2 and user_id = $3 returning key_id

-- name: erase_logins
-- Erases a user's logins, ended ones too.
delete from logins where tenant = $1 and project = $2 and user_id = $3 returning cookie_hash

-- name: count_credentials
-- Adds to what an erasure has erased, and tells how far it is.
update erasures e set api_keys = e.api_keys + $4, logins = e.logins + $5
where e.tenant = $1 and e.project = $2 and e.erasure_id = $3
returning {{erasure_columns}}

-- name: unfinished_in
-- What has not ended in the conversations $3, in order.
select turn_id from turns
where tenant = $1 and project = $2 and conversation_id = any($3::text[])
  and state in ('queued', 'running', 'steering')
order by admitted_order

-- name: mark_aged
-- Hides and marks at most $4 idle conversations without activity since $3.
with aged as (
  select c.conversation_id from conversations c
  where c.tenant = $1 and c.project = $2 and c.last_activity_ms < $3 and c.erasure_id is null
    and not exists (
      select from turns t where t.tenant = $1 and t.project = $2 and t.conversation_id = c.conversation_id
        and t.state in ('queued', 'running', 'steering'))
  order by c.conversation_id limit $4 for no key update skip locked
)
update conversations c set erasure_id = 'retention', deleted_ms = coalesce(c.deleted_ms, {{now_ms}})
from aged a
where c.tenant = $1 and c.project = $2 and c.conversation_id = a.conversation_id
returning c.conversation_id

-- name: marked
-- A page of the conversations that are to be erased, after one.
select conversation_id, user_id, erasure_id, lingering_turn_id is not null as lingers from conversations
where tenant = $1 and project = $2 and erasure_id is not null and conversation_id > $3
order by conversation_id limit $4

-- name: turns_in
-- The turns of a conversation.
select turn_id, state from turns where tenant = $1 and project = $2 and conversation_id = $3

-- name: lock_marked
-- A conversation that is to be erased and in which nothing runs, against concurrent admissions.
select erasure_id from conversations c
where c.tenant = $1 and c.project = $2 and c.conversation_id = $3 and c.erasure_id is not null
  and c.lingering_turn_id is null
  and not exists (
    select from turns t where t.tenant = $1 and t.project = $2 and t.conversation_id = $3
      and t.state in ('queued', 'running', 'steering'))
for update

-- name: keep_out
-- Nothing that was accepted until $4 is written into the conversation again.
insert into erased_conversations as e (tenant, project, conversation_id, until_ms) values ($1, $2, $3, $4)
on conflict (conversation_id, tenant, project) do update
  set until_ms = greatest(e.until_ms, excluded.until_ms), erased_ms = {{now_ms}}

-- name: erase_turns
-- Erases the turns of a conversation; how many, and how many feedbacks among them.
with erased as (
  delete from turns where tenant = $1 and project = $2 and conversation_id = $3
  returning feedback_reaction is not null or feedback_text is not null as has_feedback
)
select count(*) as turns, count(*) filter (where has_feedback) as feedback from erased

-- name: erase_conversation
-- Erases a conversation without turns.
delete from conversations where tenant = $1 and project = $2 and conversation_id = $3

-- name: count_erased
-- Adds to what an erasure has erased; one of retention has no row.
update erasures e set conversations = e.conversations + $4, turns = e.turns + $5, feedback = e.feedback + $6
where e.tenant = $1 and e.project = $2 and e.erasure_id = $3

-- name: emptied
-- Pending erasures that have no conversation left.
select {{erasure_columns}} from erasures e
where e.tenant = $1 and e.project = $2 and e.done_ms is null
  and not exists (
    select from conversations c where c.tenant = $1 and c.project = $2 and c.erasure_id = e.erasure_id)

-- name: close_erasure
-- All of it is erased.
update erasures e set done_ms = {{now_ms}}
where e.tenant = $1 and e.project = $2 and e.erasure_id = $3 and e.done_ms is null
  and not exists (
    select from conversations c where c.tenant = $1 and c.project = $2 and c.erasure_id = $3)
returning {{erasure_columns}}

-- name: get_erasure
-- One erasure, of a user where given.
select {{erasure_columns}} from erasures e
where e.tenant = $1 and e.project = $2 and e.erasure_id = $3 and ($4::text is null or e.user_id = $4)

-- name: forget_erased
-- Forgets conversations that were erased before $3: nothing of that time is still under way.
delete from erased_conversations where tenant = $1 and project = $2 and erased_ms < $3
