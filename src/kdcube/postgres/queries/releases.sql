-- The statements of releases.py. $1 is the tenant, $2 the project.

-- name: open_registry
-- From then on there is a row to lock.
insert into bundle_registries (tenant, project) values ($1, $2) on conflict do nothing

-- name: lock_registry
-- Changes of the registry follow each other.
select sequence, default_bundle_id, default_by from bundle_registries where tenant = $1 and project = $2 for update

-- name: raise_sequence
-- Tells all processes to look.
update bundle_registries set sequence = sequence + 1 where tenant = $1 and project = $2 returning sequence

-- name: set_default
-- Which bundle gets the messages that name none, and who said so.
update bundle_registries set default_bundle_id = $3, default_by = $4 where tenant = $1 and project = $2

-- name: registry
-- Whether anything is new, and the default.
select sequence, default_bundle_id, default_by from bundle_registries where tenant = $1 and project = $2

-- name: add_release
-- The release that follows the last one of its bundle.
insert into bundle_releases as r (
  tenant, project, bundle_id, number, entry, revision, state, origin, author, reason, cause, settled_ms
)
values (
  $1, $2, $3, $4, $5::text::jsonb, $6, $7, $8, $9, $10, $11,
  case when $7 <> 'wanted' then {{now_ms}} end
)
returning {{release_columns}}

-- name: move_head
-- Where the bundle stands after a release was added; nulls leave what is there.
insert into bundle_heads as head (tenant, project, bundle_id, last, decided, ready)
values ($1, $2, $3, $4, coalesce($5::bigint, $4), $6::bigint)
on conflict (tenant, project, bundle_id) do update set
  last = excluded.last,
  decided = coalesce($5::bigint, head.decided),
  ready = coalesce($6::bigint, head.ready)

-- name: settle
-- Once: a release that is settled stays as it is.
update bundle_releases as r set
  state = $5,
  revision = coalesce($6, r.revision),
  problem = $7,
  settled_ms = {{now_ms}}
where tenant = $1 and project = $2 and bundle_id = $3 and number = $4 and state = 'wanted'
returning {{release_columns}}

-- name: serve
-- A release that is ready is served, unless a later one is.
update bundle_heads set ready = $4
where tenant = $1 and project = $2 and bundle_id = $3 and (ready is null or ready < $4)

-- name: registered
-- All bundles: the default, what is served of each (if anything is), and its last release.
select registry.sequence, registry.default_bundle_id, registry.default_by, head.ready, head.decided, {{release_columns}}
from bundle_registries as registry
left join bundle_heads as head on head.tenant = registry.tenant and head.project = registry.project
left join bundle_releases as r
  on r.tenant = head.tenant and r.project = head.project and r.bundle_id = head.bundle_id
  and r.number in (head.last, head.ready, head.decided)
where registry.tenant = $1 and registry.project = $2
order by r.bundle_id, r.number

-- name: standing
-- One bundle: its last release, the one that is served, and the last one that has not failed.
select head.ready, head.decided, {{release_columns}}
from bundle_heads as head
join bundle_releases as r
  on r.tenant = head.tenant and r.project = head.project and r.bundle_id = head.bundle_id
where head.tenant = $1 and head.project = $2 and head.bundle_id = $3
  and r.number in (
    head.last, head.ready,
    (
      select max(number) from bundle_releases
      where tenant = $1 and project = $2 and bundle_id = $3 and state <> 'failed'
    )
  )
order by r.number

-- name: count_wanted
-- How many releases of a bundle are still to be prepared.
select count(*) as wanted from bundle_releases
where tenant = $1 and project = $2 and bundle_id = $3 and state = 'wanted'

-- name: of_cause
-- The release that this has brought about already, unless it failed.
select {{release_columns}} from bundle_releases as r
where tenant = $1 and project = $2 and bundle_id = $3 and cause = $4 and state <> 'failed'
order by number desc limit 1

-- name: wanted
-- What is to be prepared, in the order in which it was asked for.
select {{release_columns}} from bundle_releases as r
where tenant = $1 and project = $2 and state = 'wanted'
order by created_ms, bundle_id, number

-- name: one_release
-- A release by its number.
select {{release_columns}} from bundle_releases as r
where tenant = $1 and project = $2 and bundle_id = $3 and number = $4

-- name: list_releases
-- A page of a bundle's releases before one, newest first.
select {{release_columns}} from bundle_releases as r
where tenant = $1 and project = $2 and bundle_id = $3 and number < $4
order by number desc limit $5

-- name: ready_before
-- What was served before a release, newest first.
select {{release_columns}} from bundle_releases as r
where tenant = $1 and project = $2 and bundle_id = $3 and number < $4 and state = 'ready' and entry is not null
order by number desc limit $5
