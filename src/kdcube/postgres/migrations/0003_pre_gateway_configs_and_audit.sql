-- The configurations that administrators gave, and what they and others did. Nothing here is ever changed.

create table gateway_configs (
  tenant text not null,
  project text not null,
  version bigint not null,    -- 1, 2, …: the last one is to be run by all
  document jsonb not null,    -- as it was given, not resolved
  checksum text not null,     -- of what it resolved to
  author text not null,
  origin text not null,
  reason text,                -- in the author's words
  created_ms bigint not null default (extract(epoch from clock_timestamp()) * 1000)::bigint,
  primary key (tenant, project, version),
  constraint gateway_configs_origin check (origin in ('put', 'patch', 'reset', 'rollback', 'environment'))
);

create table audit_log (
  entry bigint generated always as identity primary key,
  tenant text not null,
  project text not null,
  at_ms bigint not null default (extract(epoch from clock_timestamp()) * 1000)::bigint,
  actor text not null,        -- a user, or a part of the system
  act text not null,
  subject text not null,      -- what the act was about
  outcome text not null,
  address text,               -- of the client
  request_id text,
  details jsonb not null
);

create index audit_log_by_actor on audit_log (actor, entry);
create index audit_log_by_act on audit_log (act, entry);
