-- How full the system is, as admission sees it. Changes nothing.
-- KEYS: 1-14 state
-- ARGV: 1 heartbeat ttl ms, 2.. classes
-- Returns: {live slots, turns present, turns with a worker, memory (per mille), mean ms of a turn, competing by class...}
-- include: state
-- include: estimates
local known = redis.call('HMGET', SCHEDULE, 'memory', 'mean_ms')
local told = {
  live_slots(tonumber(ARGV[1])), redis.call('HLEN', TURNS), redis.call('ZCARD', LEASES),
  tonumber(known[1] or 0), math.floor(tonumber(known[2] or 0)),
}
for n = 2, #ARGV do
  told[#told + 1] = redis.call('ZLEXCOUNT', QUEUE, '[' .. ARGV[n] .. SEP, '(' .. ARGV[n] .. AFTER_SEP)
end
return told
