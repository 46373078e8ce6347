-- The statements of conversations.py. $1 is the tenant, $2 the project, $3 the owner in every one of them.

-- name: list_conversations
-- One page after ($4, $5), newest activity first, of those whose title or messages are like $6.
select {{conversation_columns}} from conversations c
where c.tenant = $1 and c.project = $2 and c.user_id = $3 and c.deleted_ms is null
  and (c.last_activity_ms, c.conversation_id) < ($4::bigint, $5::text)
  and ($6::text is null or c.title ilike $6 or exists (
    select from turns t
    where t.tenant = $1 and t.project = $2 and t.conversation_id = c.conversation_id
      and (t.message ilike $6 or t.answer ilike $6)))
order by c.last_activity_ms desc, c.conversation_id desc limit $7

-- name: get_conversation
-- One conversation that is not deleted.
select {{conversation_columns}} from conversations c
where c.tenant = $1 and c.project = $2 and c.user_id = $3 and c.conversation_id = $4 and c.deleted_ms is null

-- name: lock_conversation
-- The conversation, against concurrent admissions, deletions and branch changes.
select {{conversation_columns}} from conversations c
where c.tenant = $1 and c.project = $2 and c.user_id = $3 and c.conversation_id = $4 and c.deleted_ms is null
for no key update

-- name: turn_links
-- How the turns of a conversation hang together, in the order of their admission.
select turn_id, parent_turn_id, steer_of, state, attempt from turns
where tenant = $1 and project = $2 and user_id = $3 and conversation_id = $4
order by accepted_ms, admitted_order

-- name: turns_by_id
-- The turns $4 of a user.
select {{turn_columns}} from turns t
where t.tenant = $1 and t.project = $2 and t.user_id = $3 and t.turn_id = any($4::text[])

-- name: all_turns
-- Every turn of a conversation, in the order of their admission.
select {{turn_columns}} from turns t
where t.tenant = $1 and t.project = $2 and t.user_id = $3 and t.conversation_id = $4
order by t.accepted_ms, t.admitted_order

-- name: rename
-- Gives a conversation another title.
update conversations c set title = $5
where c.tenant = $1 and c.project = $2 and c.user_id = $3 and c.conversation_id = $4 and c.deleted_ms is null
returning {{conversation_columns}}

-- name: pin
-- Pins or unpins a conversation.
update conversations c set pinned = $5
where c.tenant = $1 and c.project = $2 and c.user_id = $3 and c.conversation_id = $4 and c.deleted_ms is null
returning {{conversation_columns}}

-- name: delete
-- Hides a conversation; its rows stay.
update conversations c set deleted_ms = $5
where c.tenant = $1 and c.project = $2 and c.user_id = $3 and c.conversation_id = $4 and c.deleted_ms is null
returning {{conversation_columns}}

-- name: restore
-- Shows a deleted conversation again, unless it is being erased; one that is not deleted stays as it is.
update conversations c set deleted_ms = null
where c.tenant = $1 and c.project = $2 and c.user_id = $3 and c.conversation_id = $4 and c.erasure_id is null
returning {{conversation_columns}}

-- name: set_head
-- Makes another branch the active one.
update conversations c set head_turn_id = $5
where c.tenant = $1 and c.project = $2 and c.user_id = $3 and c.conversation_id = $4
returning {{conversation_columns}}

-- name: lock_conversations
-- All conversations of a user, deleted ones too, against concurrent admissions.
select conversation_id from conversations
where tenant = $1 and project = $2 and user_id = $3
order by conversation_id for no key update

-- name: reown
-- Gives the idle ones of the conversations $5 of user $3, and their turns, to user $4.
with moved as (
  update conversations c set user_id = $4
  where c.tenant = $1 and c.project = $2 and c.user_id = $3 and c.conversation_id = any($5::text[])
    and c.erasure_id is null
    and not exists (
      select from turns t where t.tenant = $1 and t.project = $2 and t.conversation_id = c.conversation_id
        and t.state in ('queued', 'running', 'steering'))
  returning c.conversation_id
),
turned as (
  update turns t set user_id = $4 from moved m
  where t.tenant = $1 and t.project = $2 and t.conversation_id = m.conversation_id
)
select conversation_id from moved order by conversation_id
