#!lua flags=allow-oom
-- A process says what it counted, under a key that expires, and that it lives.
-- KEYS: 1 sources, 2 source:<source>
-- ARGV: 1 source, 2 report (JSON), 3 how long the report is kept (ms), 4 how long the source stays listed (ms)
-- Returns: 1
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[4])
return 1
