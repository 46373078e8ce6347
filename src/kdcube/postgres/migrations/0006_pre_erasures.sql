-- Erasing what is kept of a user, or has become old. What is to be erased is hidden, cancelled and marked at once, and
-- erased once no code can write into it any more.

create table erasures (
  tenant text not null,
  project text not null,
  erasure_id text not null,
  user_id text not null,
  requested_by text not null,
  requested_ms bigint not null,
  done_ms bigint,
  conversations bigint not null default 0,    -- erased so far
  turns bigint not null default 0,
  feedback bigint not null default 0,
  api_keys bigint not null default 0,
  logins bigint not null default 0,
  primary key (erasure_id, tenant, project)
);

create unique index erasures_pending on erasures (user_id, tenant, project) where done_ms is null;
create index erasures_by_user on erasures (user_id, requested_ms desc);

-- The erasure that a conversation waits for; 'retention' for one that has become old.
alter table conversations add column erasure_id text;
create index conversations_to_erase on conversations (conversation_id) where erasure_id is not null;

-- Nothing that was accepted until then is written into these conversations again: a worker that slept may still try.
create table erased_conversations (
  tenant text not null,
  project text not null,
  conversation_id text not null,
  until_ms bigint not null,                   -- by Valkey's clock, as turns are accepted
  erased_ms bigint not null default (extract(epoch from clock_timestamp()) * 1000)::bigint,
  primary key (conversation_id, tenant, project)
);

create index erased_conversations_by_age on erased_conversations (erased_ms);
