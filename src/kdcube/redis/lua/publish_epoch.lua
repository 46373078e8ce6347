-- The working state is whole again: opens it under the new epoch.
-- KEYS: 1 epoch, 2 building, 3 doorbell, 4 schedule, 5 server
-- ARGV: 1 epoch, 2 channel, 3 highest order that PostgreSQL knows, 4 run id of the server
-- Returns: 1 | 0 when another epoch is being built
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end -- a repeat
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
if tonumber(ARGV[3]) > tonumber(redis.call('HGET', KEYS[4], 'order') or 0) then redis.call('HSET', KEYS[4], 'order', ARGV[3]) end
redis.call('SET', KEYS[5], ARGV[4])
redis.call('SET', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
redis.call('RPUSH', KEYS[3], '1')
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 1
