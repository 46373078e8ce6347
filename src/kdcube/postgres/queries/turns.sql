-- The statements of turns.py. $1 is the tenant and $2 the project of every one of them.
--
-- Rows are locked in one order everywhere: conversations by id, then turns, then the steers of those turns.
-- "(select count(*) from locked) >= 0" makes a statement take all locks of that part before it goes on.
--
-- No plan, however old its statistics, may begin with all turns or all of a state instead of those asked for. So the
-- grouped statements find rows by "lateral (... limit 1)" or a scalar subquery, write with "= any" of the ids as well,
-- and compare a row's state with what they found, not with a constant. tests/integration/postgres/test_plans.py watches.

-- name: admit_turns
-- Inserts the turns that have no row yet and whose conversation is new or their user's; returns the ids inserted.
with item as (
  select * from unnest(
    $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
    $12::bytea[], $13::text[], $14::bigint[], $15::bigint[], $16::text[], $17::text[], $18::text[], $19::text[]
  ) with ordinality as i (
    turn_id, client_turn_id, conversation_id, user_id, user_type, session_id, request_id, bundle_id, content_hash,
    envelope, state, admitted_order, accepted_ms, parent_turn_id, steer_of, message, title, position
  )
),
fresh as (
  select distinct on (turn_id) * from item i
  where (select t.turn_id from turns t where t.tenant = $1 and t.project = $2 and t.turn_id = i.turn_id) is null
    and (select e.until_ms from erased_conversations e
      where e.tenant = $1 and e.project = $2 and e.conversation_id = i.conversation_id and e.until_ms >= i.accepted_ms)
      is null
  order by turn_id, position
),
open as (
  insert into conversations as c
    (tenant, project, conversation_id, user_id, title, started_ms, last_activity_ms)
  select distinct on (conversation_id)
    $1, $2, conversation_id, user_id, title, accepted_ms, max(accepted_ms) over (partition by conversation_id)
  from fresh
  order by conversation_id, position
  on conflict (tenant, project, conversation_id) do update
    set last_activity_ms = greatest(c.last_activity_ms, excluded.last_activity_ms)
    where c.user_id = excluded.user_id and c.deleted_ms is null
  returning c.conversation_id, c.user_id
)
insert into turns (
  tenant, project, turn_id, client_turn_id, conversation_id, user_id, user_type, session_id, request_id, bundle_id,
  content_hash, envelope, state, admitted_order, accepted_ms, parent_turn_id, steer_of, message
)
select
  $1, $2, turn_id, client_turn_id, conversation_id, user_id, user_type, session_id, request_id, bundle_id,
  content_hash, envelope, state, admitted_order, accepted_ms, parent_turn_id, steer_of, message
from fresh join open using (conversation_id, user_id)
order by turn_id
on conflict do nothing
returning turn_id

-- name: existing_turns
-- What a repeated send is told about the turns of the ids $3.
select turn_id, state, content_hash, conversation_id, claim_id, admitted_order
from turns where tenant = $1 and project = $2 and turn_id = any($3::text[])

-- name: count_steers
-- Tells the turns $3 that steers were sent to them: an ending under way looks again.
update turns set steers = steers + 1
where tenant = $1 and project = $2 and turn_id = any($3::text[]) and state in ('queued', 'running')

-- name: settle_steers
-- Steers without a live turn become turns, or cancelled like it: of the steers $3, of the turns $4, as old as $5 ms.
update turns s
set state = case when t.state = 'cancelled' then 'cancelled' else 'queued' end,
    ended_ms = case when t.state = 'cancelled' then {{now_ms}} end,
    queued_ms = {{now_ms}}
from turns o
left join turns t on t.tenant = o.tenant and t.project = o.project and t.turn_id = o.steer_of
where o.tenant = $1 and o.project = $2 and o.state = 'steering'
  and ($3::text[] is null or o.turn_id = any($3))
  and ($4::text[] is null or o.steer_of = any($4))
  and o.queued_ms <= {{now_ms}} - $5::bigint
  and (t.turn_id is null or t.state not in ('queued', 'running'))
  and s.tenant = $1 and s.project = $2 and s.turn_id = o.turn_id and s.state = 'steering'
returning s.turn_id, s.steer_of, s.state

-- name: start_turns
-- queued to running, at most one turn of a conversation, under the current epoch; moves the conversation's head.
with item as (
  select * from unnest(
    $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::boolean[], $10::bigint[], $11::integer[]
  ) as i (turn_id, conversation_id, claim_id, worker_id, bundle_version, parent_turn_id, root, epoch, partition)
),
locked as materialized (
  select conversation_id, head_turn_id, state, lingering_turn_id from conversations
  where tenant = $1 and project = $2 and conversation_id = any($4)
  order by conversation_id for no key update
),
published as materialized ( -- locked: no epoch is published while a START under the one before is under way
  select partition, epoch from epochs where tenant = $1 and project = $2 for share
),
candidate as materialized (
  select distinct on (i.conversation_id)
    i.turn_id, i.claim_id, i.worker_id, i.bundle_version, t.state, l.state as conversation_state,
    case when i.root then null else coalesce(
      (select p.turn_id from turns p
       where p.tenant = $1 and p.project = $2 and p.turn_id = i.parent_turn_id and p.conversation_id = i.conversation_id),
      l.head_turn_id) end as parent_turn_id
  from item i
  join locked l using (conversation_id)
  cross join lateral (
    select t.conversation_id, t.state, t.cancel_requested, t.admitted_order
    from turns t where t.tenant = $1 and t.project = $2 and t.turn_id = i.turn_id limit 1
  ) t
  where (select count(*) from locked) >= 0
    and t.conversation_id = i.conversation_id and t.state = 'queued' and not t.cancel_requested
    and l.lingering_turn_id is null
    and i.epoch = (select p.epoch from published p where p.partition = i.partition)
    and (
      select r.turn_id from turns r
      where r.tenant = $1 and r.project = $2 and r.conversation_id = i.conversation_id and r.state = 'running') is null
  order by i.conversation_id, t.admitted_order
),
started as (
  update turns t
  set state = 'running', attempt = t.attempt + 1, claim_id = c.claim_id, worker_id = c.worker_id,
      bundle_version = c.bundle_version, started_ms = {{now_ms}},
      parent_turn_id = case when t.attempt > 0 then t.parent_turn_id else c.parent_turn_id end
  from candidate c
  where t.tenant = $1 and t.project = $2 and t.turn_id = any($3) and t.turn_id = c.turn_id
    and t.state = c.state and not t.cancel_requested
  returning t.turn_id, t.conversation_id, t.claim_id, t.attempt, t.parent_turn_id, t.started_ms, c.conversation_state
),
moved as ( -- by the first attempt: turns that were given the conversation since are not to vanish from its branch
  update conversations c set head_turn_id = s.turn_id
  from started s
  where c.tenant = $1 and c.project = $2 and c.conversation_id = any($4) and c.conversation_id = s.conversation_id
    and s.attempt = 1
)
select * from started

-- name: start_facts
-- Why the turns $3 did not start: their rows, whether the epochs $5 of the partitions $4 are current, who is in the way.
select {{turn_columns}}, c.state as conversation_state,
  c.lingering_turn_id is not null or t.followed as busy,
  i.epoch is not distinct from (
    select e.epoch from epochs e where e.tenant = $1 and e.project = $2 and e.partition = i.partition) as epoch_current
from unnest($3::text[], $4::integer[], $5::bigint[]) as i (turn_id, partition, epoch)
cross join lateral (
  select t.*,
    exists (select from turns r where r.tenant = $1 and r.project = $2 and r.conversation_id = t.conversation_id
      and r.state = 'running' and r.turn_id <> t.turn_id) as followed
  from turns t where t.tenant = $1 and t.project = $2 and t.turn_id = i.turn_id limit 1
) t
cross join lateral (
  select c.state, c.lingering_turn_id from conversations c
  where c.tenant = $1 and c.project = $2 and c.conversation_id = t.conversation_id limit 1
) c

-- name: finish_turns
-- running to a terminal state under the same claim; the steers that were not applied become turns or are cancelled.
with item as (
  select * from unnest(
    $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[],
    $8::jsonb[], $9::jsonb[], $10::jsonb[], $11::jsonb[], $12::jsonb[], $13::jsonb[], $14::text[], $15::boolean[]
  ) as i (
    turn_id, claim_id, state, ended_ms, answer, text_by_marker, steps, services, error, bundle_state, usage,
    bundle_version, lingers
  )
),
locked as materialized (
  select c.conversation_id from conversations c
  where c.tenant = $1 and c.project = $2 and c.conversation_id = any(array(
    select (select t.conversation_id from turns t where t.tenant = $1 and t.project = $2 and t.turn_id = i.turn_id)
    from item i where i.bundle_state is not null or i.lingers))
  order by c.conversation_id for no key update
),
seen as materialized (
  select t.turn_id, t.state, t.steers from item i
  cross join lateral (
    select t.turn_id, t.state, t.steers
    from turns t where t.tenant = $1 and t.project = $2 and t.turn_id = i.turn_id limit 1
  ) t
  where (select count(*) from locked) >= 0 and t.state = 'running'
),
ended as (
  update turns t
  set state = i.state, ended_ms = i.ended_ms, answer = i.answer, text_by_marker = i.text_by_marker, steps = i.steps,
      services = i.services, error = i.error, bundle_state = i.bundle_state, usage = i.usage,
      bundle_version = coalesce(i.bundle_version, t.bundle_version)
  from item i join seen s using (turn_id)
  where t.tenant = $1 and t.project = $2 and t.turn_id = any($3) and t.turn_id = i.turn_id
    and t.claim_id = i.claim_id and t.state = s.state and t.steers = s.steers
  returning t.turn_id, t.conversation_id, t.state, t.ended_ms, i.bundle_state, i.lingers
),
kept as (
  update conversations c
  set state = case when e.bundle_state is null then c.state else coalesce(c.state, '{}') || e.bundle_state end,
      lingering_turn_id = case when e.lingers then e.turn_id else c.lingering_turn_id end
  from ended e
  where c.tenant = $1 and c.project = $2 and c.conversation_id = any(array(select l.conversation_id from locked l))
    and c.conversation_id = e.conversation_id and (e.bundle_state is not null or e.lingers)
),
waiting as (
  select s.turn_id, s.state, e.state as ended_as, e.ended_ms
  from ended e
  cross join lateral (
    select s.turn_id, s.state from turns s
    where s.tenant = $1 and s.project = $2 and s.steer_of = e.turn_id offset 0
  ) s
  where s.state = 'steering'
),
steer as (
  update turns s
  set state = case when w.ended_as = 'cancelled' then 'cancelled' else 'queued' end,
      ended_ms = case when w.ended_as = 'cancelled' then w.ended_ms end,
      queued_ms = {{now_ms}}
  from waiting w
  where s.tenant = $1 and s.project = $2 and s.turn_id = any(array(select turn_id from waiting)) and s.turn_id = w.turn_id
    and s.state = w.state
  returning s.turn_id, s.steer_of, s.state, s.accepted_ms, s.admitted_order
)
select e.turn_id,
  array(select s.turn_id from steer s where s.steer_of = e.turn_id and s.state = 'queued'
    order by s.accepted_ms, s.admitted_order)
    as bounced,
  array(select s.turn_id from steer s where s.steer_of = e.turn_id and s.state = 'cancelled'
    order by s.accepted_ms, s.admitted_order)
    as discarded
from ended e

-- name: finish_facts
-- The rows of the turns $3 that were not ended, and what became of their steers.
select {{turn_columns}},
  array(select s.turn_id from turns s where s.tenant = $1 and s.project = $2 and s.steer_of = t.turn_id
    and s.state = 'queued' order by s.accepted_ms, s.admitted_order) as bounced,
  array(select s.turn_id from turns s where s.tenant = $1 and s.project = $2 and s.steer_of = t.turn_id
    and s.state = 'cancelled' order by s.accepted_ms, s.admitted_order) as discarded
from turns t where t.tenant = $1 and t.project = $2 and t.turn_id = any($3::text[])

-- name: exit_turn
-- No code of the turn $3 runs any more.
update conversations set lingering_turn_id = null where tenant = $1 and project = $2 and lingering_turn_id = $3

-- name: lingering_turns
-- Turns that have ended and whose code may still run.
select {{turn_columns}}, t.envelope from conversations c
cross join lateral (
  select * from turns t where t.tenant = $1 and t.project = $2 and t.turn_id = c.lingering_turn_id limit 1
) t
where c.tenant = $1 and c.project = $2 and c.lingering_turn_id is not null

-- name: requeue_turn
-- Hands a started turn back for another attempt, unless it is to be cancelled, or the epoch $5 of partition $6 is over.
with published as materialized ( -- locked: a rebuild that publishes another one sees what this statement leaves
  select epoch from epochs where tenant = $1 and project = $2 and partition = $6 for share
)
update turns set state = 'queued', claim_id = null, worker_id = null, queued_ms = {{now_ms}}
where tenant = $1 and project = $2 and turn_id = $3 and claim_id = $4 and state = 'running' and not cancel_requested
  and ($5::bigint is null or $5 = (select epoch from published))
returning turn_id

-- name: fail_queued
-- Ends a turn that never started.
update turns set state = 'failed', error = $4::jsonb, ended_ms = $5
where tenant = $1 and project = $2 and turn_id = $3 and state = 'queued'
returning turn_id

-- name: cancel_turns
-- Cancels what waits and asks what runs to stop: turns $3 of users $4, in conversations $5 where given.
with target as materialized (
  select t.turn_id, t.state
  from turns t
  join unnest($3::text[], $4::text[], $5::text[]) as i (turn_id, user_id, conversation_id)
    on i.turn_id = t.turn_id and i.user_id = t.user_id
    and (i.conversation_id is null or i.conversation_id = t.conversation_id)
  where t.tenant = $1 and t.project = $2 and t.turn_id = any($3)
  order by t.turn_id for no key update of t
),
cancelled as (
  update turns t
  set state = case when t.state = 'running' then t.state else 'cancelled' end,
      ended_ms = case when t.state = 'running' then null else $6::bigint end,
      cancel_requested = true
  from target g
  where (select count(*) from target) >= 0
    and t.tenant = $1 and t.project = $2 and t.turn_id = any($3) and t.turn_id = g.turn_id
    and t.state in ('queued', 'steering', 'running')
  returning t.turn_id, t.state
)
select g.turn_id, g.state as state_before, coalesce(c.state, g.state) as state_after
from target g left join cancelled c using (turn_id)

-- name: unfinished_of_conversation
-- The turns of a user's conversation that have not ended, in order.
select turn_id from turns
where tenant = $1 and project = $2 and conversation_id = $3 and user_id = $4
  and state in ('queued', 'running', 'steering')
order by admitted_order

-- name: current_turn
-- What a user's conversation is busy with: its running turn, else the queued one that is next.
select {{turn_columns}} from turns t
where t.tenant = $1 and t.project = $2 and t.conversation_id = $3 and t.user_id = $4 and t.state in ('running', 'queued')
order by t.state desc, t.admitted_order limit 1

-- name: apply_steers
-- steering to applied, while the turn $3 runs under the claim $4; returns those that had been applied before as well.
with target as materialized (
  select turn_id from turns
  where tenant = $1 and project = $2 and turn_id = $3 and claim_id = $4 and state = 'running' for no key update
),
applied as (
  update turns s set state = 'applied', ended_ms = {{now_ms}}, parent_turn_id = $3
  from target
  where s.tenant = $1 and s.project = $2 and s.turn_id = any($5::text[])
    and s.steer_of = target.turn_id and s.state = 'steering'
  returning s.turn_id
)
select turn_id from applied
union all
select s.turn_id from turns s join target on s.steer_of = target.turn_id
where s.tenant = $1 and s.project = $2 and s.turn_id = any($5::text[]) and s.state = 'applied'

-- name: return_steers
-- applied to steering again, while the turn $3 runs under the claim $4: the bundle ended before it had them.
with target as (
  update turns set steers = steers + 1  -- an ending under way (the reaper's) looks again
  where tenant = $1 and project = $2 and turn_id = $3 and claim_id = $4 and state = 'running'
  returning turn_id
)
update turns s set state = 'steering', ended_ms = null, parent_turn_id = null
from target
where s.tenant = $1 and s.project = $2 and s.turn_id = any($5::text[])
  and s.steer_of = target.turn_id and s.state = 'applied'
returning s.turn_id

-- name: get_turn
-- One turn, of a user where given.
select {{turn_columns}} from turns t
where t.tenant = $1 and t.project = $2 and t.turn_id = $3 and ($4::text is null or t.user_id = $4)

-- name: find_turn
-- A user's turn by its id or else by the client's: the latest.
select {{turn_columns}} from turns t
where t.tenant = $1 and t.project = $2 and t.user_id = $3 and (t.turn_id = $4 or t.client_turn_id = $4)
order by (t.turn_id = $4) desc, t.accepted_ms desc, t.admitted_order desc limit 1

-- name: steers_of_turn
-- The steers in the state $4 that were sent to the turn $3, in order.
select s.envelope from turns s
where s.tenant = $1 and s.project = $2 and s.steer_of = $3 and s.state = $4
order by s.accepted_ms, s.admitted_order

-- name: get_envelope
-- What a worker needs to run a turn.
select envelope from turns where tenant = $1 and project = $2 and turn_id = $3

-- name: unfinished_turns
-- Turns that have not ended, admitted after $3, in order; a page never parts turns of one order.
select {{turn_columns}}, t.envelope from turns t
where t.tenant = $1 and t.project = $2 and t.state in ('queued', 'running', 'steering') and t.admitted_order > $3
order by t.admitted_order fetch first ($4::bigint) rows with ties

-- name: queued_turns
-- Turns that have been ready to start for longer than $3 ms, oldest first.
select {{turn_columns}}, t.envelope from turns t
where t.tenant = $1 and t.project = $2 and t.state = 'queued' and t.queued_ms <= {{now_ms}} - $3::bigint
order by t.queued_ms, t.admitted_order limit $4

-- name: turn_states
-- The states of the turns $3.
select turn_id, state from turns where tenant = $1 and project = $2 and turn_id = any($3::text[])

-- name: max_order
-- The highest admitted order.
select coalesce(max(admitted_order), 0) as highest from turns where tenant = $1 and project = $2

-- name: turn_history
-- The path from the turn $3 up to its root, at most $4 turns, oldest first. The root's envelope says what was before it.
with recursive path as (
  select 1 as depth, turn_id, parent_turn_id, conversation_id, message, answer, state, ended_ms
  from turns where tenant = $1 and project = $2 and turn_id = $3
  union all
  select p.depth + 1, t.turn_id, t.parent_turn_id, t.conversation_id, t.message, t.answer, t.state, t.ended_ms
  from path p
  join turns t on t.tenant = $1 and t.project = $2 and t.turn_id = p.parent_turn_id
    and t.conversation_id = p.conversation_id
  where p.depth < $4
)
select p.turn_id, p.message, p.answer, p.state, p.ended_ms,
  array(select s.message from turns s where s.tenant = $1 and s.project = $2 and s.steer_of = p.turn_id
    and s.state = 'applied' order by s.accepted_ms, s.admitted_order) as steers,
  case when p.parent_turn_id is null then
    (select r.envelope from turns r where r.tenant = $1 and r.project = $2 and r.turn_id = p.turn_id)
  end as root_envelope
from path p order by p.depth desc

-- name: set_feedback
-- A user's verdict on a turn.
update turns set feedback_reaction = $5, feedback_text = $6
where tenant = $1 and project = $2 and turn_id = $3 and user_id = $4
returning turn_id

-- name: waiting_by_type
-- Turns that have not ended, by class of users and state, and since when the oldest of them waits or runs.
select t.user_type, t.state, count(*) as turns,
  greatest(0, (extract(epoch from clock_timestamp()) * 1000)::bigint - min(t.accepted_ms)) as oldest_ms
from turns t
where t.tenant = $1 and t.project = $2 and t.state in ('queued', 'running', 'steering')
group by t.user_type, t.state order by t.user_type, t.state
