-- Conversations, turns and the epochs of Valkey. Times are Unix milliseconds (_ms).
--
-- Keys begin with their most selective column, and other indexes leave tenant and project out: without statistics (a new
-- installation under its first load) PostgreSQL takes "tenant = and project =" for one row, and would walk any index
-- that offers them, which is all of it, once for each batch.

create table conversations (
  tenant text not null,
  project text not null,
  conversation_id text not null,
  user_id text not null,
  title text not null,
  started_ms bigint not null,
  last_activity_ms bigint not null,
  pinned boolean not null default false,
  deleted_ms bigint,
  head_turn_id text,          -- the tip of the active branch
  state jsonb,                -- turn.state of the bundle: commits with a turn's terminal state
  primary key (conversation_id, tenant, project)
);

-- A user's list, newest first.
create index conversations_by_user on conversations (user_id, last_activity_ms desc, conversation_id desc);

create table turns (
  tenant text not null,
  project text not null,
  turn_id text not null,
  client_turn_id text not null,
  conversation_id text not null,
  user_id text not null,
  user_type text not null,
  session_id text not null,
  request_id text not null,
  bundle_id text not null,
  bundle_version text,        -- pinned at START
  content_hash text not null,
  envelope bytea not null,    -- msgpack, as Valkey holds it
  state text not null,
  attempt integer not null default 0,
  claim_id text,              -- the fence of the attempt that runs or ended
  worker_id text,
  admitted_order bigint not null,
  accepted_ms bigint not null,
  queued_ms bigint not null default (extract(epoch from clock_timestamp()) * 1000)::bigint,
  started_ms bigint,
  ended_ms bigint,
  parent_turn_id text,
  steer_of text,              -- the turn that this one was sent to as a steer
  steers integer not null default 0,  -- steers sent to this turn: a change under an ending makes it look again
  cancel_requested boolean not null default false,
  message text not null,
  answer text,
  text_by_marker jsonb,
  steps jsonb,
  services jsonb,
  error jsonb,
  bundle_state jsonb,
  usage jsonb,
  feedback_reaction text,
  feedback_text text,
  primary key (turn_id, tenant, project),
  foreign key (conversation_id, tenant, project) references conversations,
  constraint turns_state check (state in
    ('queued', 'running', 'steering', 'applied', 'completed', 'failed', 'cancelled', 'interrupted'))
);

-- One running turn per conversation (rule 7): this index decides, whatever anybody else believes.
create unique index turns_one_running on turns (conversation_id, tenant, project) where state = 'running';
create index turns_unfinished on turns (admitted_order) where state in ('queued', 'running', 'steering');
create index turns_by_conversation on turns (conversation_id);
create index turns_by_client_id on turns (client_turn_id, user_id);
create index turns_by_order on turns (admitted_order);
create index turns_by_steered on turns (steer_of) where steer_of is not null;

create sequence valkey_epoch;

create table epochs (
  tenant text not null,
  project text not null,
  partition integer not null,
  epoch bigint not null,
  published_at timestamptz not null default now(),
  primary key (tenant, project, partition)
);
