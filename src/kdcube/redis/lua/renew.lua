#!lua flags=allow-oom
-- Renews leases by their fences.
-- KEYS: 1 epoch, 2 turns, 3 leases
-- ARGV: 1 epoch, 2 lease ms, then turn, claim for each
-- Returns: {turns whose claim is no longer theirs, turns that are cancelled}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('EPOCH the working state is of another epoch') end
local t = redis.call('TIME')
local deadline = t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2]
local lost, cancelled = {}, {}
for i = 3, #ARGV, 2 do
  local packed = redis.call('HGET', KEYS[2], ARGV[i])
  local rec = packed and cmsgpack.unpack(packed)
  if rec and rec.cl == ARGV[i + 1] then
    redis.call('ZADD', KEYS[3], deadline, ARGV[i])
    if rec.x == 1 then cancelled[#cancelled + 1] = ARGV[i] end
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return {lost, cancelled}
