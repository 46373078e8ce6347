-- Takes one from a bucket that fills by itself.
-- KEYS: 1 bucket
-- ARGV: 1 what it holds at most, 2 what it gains in a second
-- Returns: 0 when there was one, else the ms until there is
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local burst, per_s = tonumber(ARGV[1]), tonumber(ARGV[2])
local has = redis.call('HMGET', KEYS[1], 'l', 'at')
local level, at = tonumber(has[1] or burst), tonumber(has[2] or now)
level = math.min(burst, level + math.max(now - at, 0) / 1000 * per_s)
if level < 1 then return math.ceil((1 - level) / per_s * 1000) end
redis.call('HSET', KEYS[1], 'l', level - 1, 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / per_s * 1000))
return 0
