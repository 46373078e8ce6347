-- The registry of bundles: their releases, which never change once they are settled, and what is served of them.

create table bundle_registries (
  tenant text not null,
  project text not null,
  sequence bigint not null default 0,    -- raised by every change of the registry, in the same transaction
  default_bundle_id text,
  default_by text not null default 'environment',
  primary key (tenant, project),
  constraint bundle_registries_default_by check (default_by in ('environment', 'administrator'))
);

create table bundle_releases (
  tenant text not null,
  project text not null,
  bundle_id text not null,
  number bigint not null,                -- 1, 2, … of each bundle
  entry jsonb,                           -- of the registry; null takes the bundle away
  revision text,                         -- the commit; null for a folder, and as long as it is not known
  state text not null,
  origin text not null,
  author text not null,
  reason text,                           -- in the author's words
  cause text,                            -- what asked for it, where that must count once: the hash of a signed push
  problem text,                          -- why it failed
  created_ms bigint not null default (extract(epoch from clock_timestamp()) * 1000)::bigint,
  settled_ms bigint,
  primary key (bundle_id, number, tenant, project),
  constraint bundle_releases_state check (state in ('wanted', 'ready', 'failed')),
  constraint bundle_releases_origin check (
    origin in ('environment', 'add', 'update', 'remove', 'reload', 'rollback', 'webhook', 'poll')
  )
);

create index bundle_releases_wanted on bundle_releases (created_ms) where state = 'wanted';
create index bundle_releases_by_cause on bundle_releases (bundle_id, cause) where cause is not null;

-- Where each bundle stands.
create table bundle_heads (
  tenant text not null,
  project text not null,
  bundle_id text not null,
  last bigint not null,                  -- the number of its last release
  decided bigint not null,               -- of the last one that somebody made, instead of only looking for news
  ready bigint,                          -- of the last one that is ready: it is served
  primary key (tenant, project, bundle_id)
);
