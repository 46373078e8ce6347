#!lua flags=allow-oom
-- A worker's heartbeat. Workers that have not beaten for ten times the ttl are forgotten.
-- KEYS: 1 beats, 2 slots, 3 workers, 4 doorbell
-- ARGV: 1 worker, 2 slots, 3 what it says of itself (JSON), 4 ttl ms
-- Returns: 1 when the worker is new, else 0
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local new = redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - 10 * ARGV[4])) do
  redis.call('ZREM', KEYS[1], dead)
  redis.call('HDEL', KEYS[2], dead)
  redis.call('HDEL', KEYS[3], dead)
end
if new == 1 then redis.call('RPUSH', KEYS[4], '1') end
return new
