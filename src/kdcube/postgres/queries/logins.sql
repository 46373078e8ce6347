-- The statements of logins.py. $1 is the tenant, $2 the project.

-- name: open_login
-- A login that begins.
insert into logins (tenant, project, cookie_hash, login_id, user_id, issuer, provider_session, claims, tokens, sealed_by,
  opened_ms, used_ms, idle_ms, expires_ms, confirmed_ms, refresh_ms)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12, $13, $14, $15)

-- name: get_login
-- The login of a cookie, ended ones too.
select {{login_columns}} from logins where tenant = $1 and project = $2 and cookie_hash = $3

-- name: touch_login
-- Notes that a login is used; one that has ended or run out stays so.
update logins set used_ms = greatest(used_ms, $4)
where tenant = $1 and project = $2 and cookie_hash = $3 and ended_ms is null
  and expires_ms > $4 and used_ms + idle_ms > $4
returning {{login_columns}}

-- name: live_logins
-- Those of the cookies $3 that are alive at $4.
select cookie_hash from logins
where tenant = $1 and project = $2 and cookie_hash = any($3::bytea[]) and ended_ms is null
  and expires_ms > $4 and used_ms + idle_ms > $4

-- name: end_login
-- Ends one (of generation $6, if given), and hands out its tokens for the last time.
with found as (
  select cookie_hash, tenant, project, tokens from logins
  where tenant = $1 and project = $2 and cookie_hash = $3 and ended_ms is null
    and ($6::integer is null or generation = $6)
  for no key update
)
update logins l set ended_ms = $4, ended_by = $5, tokens = null, refresh_ms = null, refresher = null from found f
where l.cookie_hash = f.cookie_hash and l.tenant = f.tenant and l.project = f.project
returning l.cookie_hash, l.login_id, l.user_id, f.tokens

-- name: end_logins
-- Ends those of a provider's session $6 and a user $7, of which one may be null. A login that does not know its session
-- ends with its user.
update logins set ended_ms = $4, ended_by = $5, tokens = null, refresh_ms = null, refresher = null
where tenant = $1 and project = $2 and issuer = $3 and ended_ms is null
  and ($6::text is null or provider_session = $6 or (provider_session is null and $7::text is not null))
  and ($7::text is null or user_id = $7)
  and ($6::text is not null or $7::text is not null)
returning cookie_hash, login_id, user_id, null::bytea as tokens

-- name: take_due
-- Takes up to $5 logins whose refresh is due at $4, for refresher $3, who has $6 seconds; what another has taken waits.
update logins l set refresher = $3, refresher_until = clock_timestamp() + make_interval(secs => $6)
from (
  select cookie_hash, tenant, project from logins
  where tenant = $1 and project = $2 and ended_ms is null and refresh_ms <= $4
    and expires_ms > $4 and used_ms + idle_ms > $4
    and (refresher_until is null or refresher_until < clock_timestamp())
  order by refresh_ms limit $5
  for no key update skip locked
) due
where l.cookie_hash = due.cookie_hash and l.tenant = due.tenant and l.project = due.project
returning l.cookie_hash, l.login_id, l.user_id, l.claims, l.tokens, l.generation, l.refresh_failures

-- name: next_due
-- When the next refresh is due that nobody is at; null when none is.
select min(refresh_ms) as at_ms from logins
where tenant = $1 and project = $2 and ended_ms is null and refresh_ms is not null
  and expires_ms > $3 and used_ms + idle_ms > $3
  and (refresher_until is null or refresher_until < clock_timestamp())

-- name: store_refreshed
-- The tokens of generation $4 gave new ones: they count if nobody has stored newer ones, whoever holds the refresh now.
update logins set claims = $5, tokens = $6, sealed_by = $7, confirmed_ms = $8, refresh_ms = $9,
  generation = generation + 1, refresh_failures = 0, refresher = null, refresher_until = null
where tenant = $1 and project = $2 and cookie_hash = $3 and generation = $4 and ended_ms is null
returning cookie_hash

-- name: postpone_refresh
-- The provider could not be asked: again at $6, by whoever comes first.
update logins set refresh_ms = $6, refresh_failures = refresh_failures + 1, refresher = null, refresher_until = null
where tenant = $1 and project = $2 and cookie_hash = $3 and generation = $4 and refresher = $5 and ended_ms is null
returning cookie_hash

-- name: sealed_by_others
-- Up to $4 logins that another key than $3 has sealed.
select cookie_hash, generation, claims, tokens from logins
where tenant = $1 and project = $2 and ended_ms is null and sealed_by <> $3 limit $4

-- name: store_resealed
-- The same under another key, unless a refresh came in between.
update logins set claims = $5, tokens = $6, sealed_by = $7
where tenant = $1 and project = $2 and cookie_hash = $3 and generation = $4 and ended_ms is null
returning cookie_hash

-- name: spend
-- Something that counts once; no row when it was spent before.
insert into spent (tenant, project, kind, hash, until_ms) values ($1, $2, $3, $4, $5)
on conflict do nothing
returning kind

-- name: forget_logins
-- Removes what is over since before $3.
delete from logins where tenant = $1 and project = $2 and (expires_ms < $3 or ended_ms < $3)

-- name: forget_spent
-- Removes what nobody could spend again.
delete from spent where tenant = $1 and project = $2 and until_ms < $3
