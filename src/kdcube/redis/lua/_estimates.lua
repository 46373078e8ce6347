-- Capacity, positions and estimates, for scripts that include `state`.

-- Slots of the workers whose last heartbeat is younger than `ttl_ms`.
local function live_slots(ttl_ms)
  local workers = redis.call('ZRANGEBYSCORE', BEATS, now_ms() - ttl_ms, '+inf')
  if #workers == 0 then return 0 end
  local total = 0
  for _, slots in ipairs(redis.call('HMGET', SLOTS, unpack(workers))) do total = total + tonumber(slots or 0) end
  return total
end

-- Position (1 is next), counted among turns of the same class and bundle and, behind a conversation, among its turns.
local function position_of(rec)
  if rec.s == 'q' then
    return redis.call('ZLEXCOUNT', QUEUE, '[' .. rec.c .. SEP .. rec.b .. SEP, '[' .. rec.m)
  elseif rec.s == 'p' then
    return 1 + redis.call('ZLEXCOUNT', PARKED, '[' .. rec.k .. SEP, '[' .. rec.m)
  elseif rec.s == 'h' then
    return 1 + redis.call('ZLEXCOUNT', HELD, '[' .. rec.u .. SEP, '[' .. rec.m)
  end
  return 0
end

local function eta_ms(position, slots)
  local mean = tonumber(redis.call('HGET', SCHEDULE, 'mean_ms') or 1000)
  return math.floor(math.max(position - 1, 0) * mean / math.max(slots, 1))
end
