-- Turns whose lease has run out.
-- KEYS: 1 epoch, 2 turns, 3 leases
-- ARGV: 1 epoch, 2 at most
-- Returns: list of {turn, claim, state, order, accepted ms}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('EPOCH the working state is of another epoch') end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local found = {}
for _, turn in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local packed = redis.call('HGET', KEYS[2], turn)
  if packed then
    local rec = cmsgpack.unpack(packed)
    found[#found + 1] = {turn, rec.cl or '', rec.s, rec.o, rec.at}
  else
    redis.call('ZREM', KEYS[3], turn)
  end
end
return found
