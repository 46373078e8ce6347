-- Keys that programs present. Revoked ones stay, as the audit log names them.

create table api_keys (
  tenant text not null,
  project text not null,
  key_id text not null,
  secret_hash bytea not null,   -- SHA-256 of 256 random bits
  name text not null,
  user_id text not null,        -- as whom it acts: its owner, or a service
  username text,
  email text,
  user_type text not null,
  roles text[] not null,
  scopes text[] not null,
  created_by text not null,
  created_ms bigint not null,
  expires_ms bigint not null,
  revoked_ms bigint,
  revoked_by text,
  last_used_ms bigint,          -- to the minute
  primary key (key_id, tenant, project)
);

create index api_keys_by_user on api_keys (user_id, created_ms desc, key_id desc);
create index api_keys_by_age on api_keys (created_ms desc, key_id desc);
