-- A turn may end while its code does not stop: its conversation waits for the exit of the bundle host (rule 9).
alter table conversations add column lingering_turn_id text;
create index conversations_lingering on conversations (lingering_turn_id) where lingering_turn_id is not null;
