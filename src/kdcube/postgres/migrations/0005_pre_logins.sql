-- Who is signed in through proxylogin. The browser's cookie is here only as a hash, tokens and claims only sealed.

create table logins (
  tenant text not null,
  project text not null,
  cookie_hash bytea not null,         -- SHA-256 of the cookie's value
  login_id text not null,             -- names it in logs, audit and caches
  user_id text not null,
  issuer text not null,
  provider_session text,              -- the provider's sid, for its back-channel logout
  claims bytea not null,              -- sealed: who it is
  tokens bytea,                       -- sealed; null once it has ended
  sealed_by text not null,            -- the key of both
  generation integer not null default 0,  -- one more with each refresh: tokens of an older one are never written
  opened_ms bigint not null,
  used_ms bigint not null,            -- within a minute
  idle_ms bigint not null,            -- how long it lasts unused
  expires_ms bigint not null,         -- whatever it is used for
  confirmed_ms bigint,                -- until when the provider's word counts; null: it gave no refresh token
  refresh_ms bigint,                  -- when a refresh is due; null: never
  refresher text,                     -- who is at it
  refresher_until timestamptz,        -- by PostgreSQL's clock
  refresh_failures integer not null default 0,
  ended_ms bigint,
  ended_by text,
  primary key (cookie_hash, tenant, project)
);

create index logins_due on logins (refresh_ms) where ended_ms is null and refresh_ms is not null;
create index logins_by_user on logins (user_id, issuer) where ended_ms is null;
create index logins_by_provider_session on logins (provider_session, issuer) where ended_ms is null;
create index logins_over on logins (expires_ms);
create index logins_by_key on logins (sealed_by) where ended_ms is null;

-- What counts once: states of sign-ins, logout tokens of the provider.
create table spent (
  tenant text not null,
  project text not null,
  kind text not null,
  hash bytea not null,
  until_ms bigint not null,
  primary key (hash, kind, tenant, project)
);

create index spent_over on spent (until_ms);
