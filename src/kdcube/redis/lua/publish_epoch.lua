-- The working state is whole again: opens it under the new epoch.
-- KEYS: 1 epoch, 2 building, 3 doorbell, 4 schedule, 5 server
-- ARGV: 1 epoch, 2 channel, 3 highest order that PostgreSQL knows, 4 run id of the server, 5 done ttl ms
-- Returns: 1 | 0 when another epoch is being built
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end -- a repeat
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
if tonumber(ARGV[3]) > tonumber(redis.call('HGET', KEYS[4], 'order') or 0) then redis.call('HSET', KEYS[4], 'order', ARGV[3]) end
-- Which turns had ended is not known any more: where there were any, PostgreSQL is asked at each admission.
if tonumber(ARGV[3]) > 0 then
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[4], 'unproven_until', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[5])
end
redis.call('SET', KEYS[5], ARGV[4])
redis.call('SET', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
redis.call('RPUSH', KEYS[3], '1')
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 1
