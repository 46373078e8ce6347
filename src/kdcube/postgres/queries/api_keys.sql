-- The statements of api_keys.py. $1 is the tenant, $2 the project.

-- name: lock_owner
-- Lets the keys of one user be made one after the other, so that their number can be limited.
select pg_advisory_xact_lock(hashtextextended('api_keys' || chr(31) || $1 || chr(31) || $2 || chr(31) || $3, 0))

-- name: count_live
-- How many keys of a user can still be used.
select count(*) as live from api_keys
where user_id = $3 and tenant = $1 and project = $2 and revoked_ms is null and expires_ms > $4

-- name: add_key
-- A new key.
insert into api_keys
  (tenant, project, key_id, secret_hash, name, user_id, username, email, user_type, roles, scopes, created_by,
   created_ms, expires_ms)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)

-- name: find_key
-- What proves a key, and what it may do.
select key_id, secret_hash, name, user_id, username, email, user_type, roles, scopes, created_by, created_ms,
  expires_ms, revoked_ms, last_used_ms
from api_keys where key_id = $3 and tenant = $1 and project = $2

-- name: live_keys
-- Those of the keys $3 that can be used at $4.
select key_id from api_keys
where tenant = $1 and project = $2 and key_id = any($3::text[]) and revoked_ms is null and expires_ms > $4

-- name: list_keys
-- A page of keys made before one, newest first, of one user where given.
select key_id, secret_hash, name, user_id, username, email, user_type, roles, scopes, created_by, created_ms,
  expires_ms, revoked_ms, last_used_ms
from api_keys
where tenant = $1 and project = $2 and (created_ms, key_id) < ($3, $4)
order by created_ms desc, key_id desc limit $5

-- name: list_keys_of
-- A page of one user's keys made before one, newest first.
select key_id, secret_hash, name, user_id, username, email, user_type, roles, scopes, created_by, created_ms,
  expires_ms, revoked_ms, last_used_ms
from api_keys
where tenant = $1 and project = $2 and (created_ms, key_id) < ($3, $4) and user_id = $6
order by created_ms desc, key_id desc limit $5

-- name: revoke_key
-- Ends a key, of one user where given; once.
update api_keys set revoked_ms = $4, revoked_by = $5
where key_id = $3 and tenant = $1 and project = $2 and revoked_ms is null and ($6::text is null or user_id = $6)
returning user_id, name

-- name: revoke_keys_of
-- Ends all keys of a user that were not ended before.
update api_keys set revoked_ms = $4, revoked_by = $5
where user_id = $3 and tenant = $1 and project = $2 and revoked_ms is null
returning key_id, name

-- name: key_exists
-- Whether there is such a key, of one user where given.
select 1 from api_keys where key_id = $3 and tenant = $1 and project = $2 and ($4::text is null or user_id = $4)

-- name: note_used
-- When keys were used last; never earlier than what is there.
update api_keys as k set last_used_ms = used.ms
from unnest($3::text[], $4::bigint[]) as used (key_id, ms)
where k.key_id = used.key_id and k.tenant = $1 and k.project = $2 and coalesce(k.last_used_ms, 0) < used.ms
