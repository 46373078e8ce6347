-- The statements of gateway_configs.py. $1 is the tenant, $2 the project.

-- name: add_config
-- One more version, unless it is there already; nothing is returned then.
insert into gateway_configs (tenant, project, version, document, checksum, author, origin, reason)
values ($1, $2, $3, $4::text::jsonb, $5, $6, $7, $8)
on conflict do nothing
returning version, document::text as document, checksum, author, origin, reason, created_ms

-- name: last_config
-- The version that is to be run.
select version, document::text as document, checksum, author, origin, reason, created_ms from gateway_configs
where tenant = $1 and project = $2
order by version desc limit 1

-- name: one_config
-- A version by its number.
select version, document::text as document, checksum, author, origin, reason, created_ms from gateway_configs
where tenant = $1 and project = $2 and version = $3

-- name: list_configs
-- A page of versions before one, newest first.
select version, document::text as document, checksum, author, origin, reason, created_ms from gateway_configs
where tenant = $1 and project = $2 and version < $3
order by version desc limit $4
