-- The statements of audit.py. $1 is the tenant, $2 the project.

-- name: record
-- One more entry.
insert into audit_log (tenant, project, actor, act, subject, outcome, address, request_id, details)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb)
returning entry

-- name: list_entries
-- A page of entries before one, newest first, of one actor or act where given.
select entry, at_ms, actor, act, subject, outcome, address, request_id, details::text as details from audit_log
where tenant = $1 and project = $2 and entry < $3
  and ($4::text is null or actor = $4) and ($5::text is null or act = $5)
order by entry desc limit $6
