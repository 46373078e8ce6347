-- The statements of epochs.py. $1 is the tenant, $2 the project, $3 the partition.

-- name: next_epoch
-- A number that no life of any Valkey had before.
select nextval('valkey_epoch') as epoch

-- name: publish_epoch
-- Makes an epoch the current one, unless a later one is.
insert into epochs as e (tenant, project, partition, epoch) values ($1, $2, $3, $4)
on conflict (tenant, project, partition) do update set epoch = excluded.epoch, published_at = now()
  where e.epoch < excluded.epoch
returning epoch

-- name: current_epoch
-- The epoch that STARTs must carry.
select epoch from epochs where tenant = $1 and project = $2 and partition = $3
