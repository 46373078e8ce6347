-- Admits a message: one round trip from idempotency to the queue. A refusal changes nothing.
-- KEYS: 1-14 state, 15 done:<turn>, 16 rate:<user>, 17 feed:<user>, 18 live:<user>,
--       19 rate:<address> (the user's again when no address counts)
-- ARGV: 1 epoch, 2 turn, 3 envelope, 4 content hash, 5 user, 6 class, 7 conversation, 8 bundle, 9 envelope version,
--       10 policy, 11 nonce, 12 client turn id, 13 burst, 14 burst window ms, 15 hourly, 16 pressure threshold of the
--       class, 17 hard threshold, 18 capacity buffer, 19 queue depth multiplier, 20 max queue size, 21 heartbeat ttl ms,
--       22 cap of running turns a user, 23 channel prefix, 24 feed name, 25 accepted event, 26 memory threshold (per mille),
--       27 live turns a user, 28 share of an address, 29 '1' when PostgreSQL has no such turn that ended
--       (13, 15, 20: -1 is no limit; 28: 0 is no address)
-- Returns: {what is left of the rates, as in `rates`, and one of
--       'admitted', order, accepted ms, position, eta ms, interrupted turn or ''
--       | 'delivered', order, accepted ms, steered turn
--       | 'duplicate', state, order, accepted ms, conversation, envelope or '', steered turn or '', interrupted turn or ''
--       | 'unproven' (it may have ended before this working state was built: see 29)
--       | 'rejected', reason, retry after ms}
-- include: turns
-- include: estimates
-- include: feed
-- include: steers
-- include: rates
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local turn, envelope, hash, user, class, conversation, bundle = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local policy, cap = ARGV[10], tonumber(ARGV[22])
local channels = ARGV[23]
local rates = rates_of(KEYS[16], KEYS[19], tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[28]))

-- In how many ms, and not before a second, `turns` of those that are there have ended.
local function until_ended(turns, slots)
  local mean = tonumber(redis.call('HGET', SCHEDULE, 'mean_ms') or 1000)
  return math.max(1000, math.ceil(turns * mean / math.max(slots, 1)))
end

local function rejected(reason, retry_after_ms) return {what_is_left(rates), 'rejected', reason, retry_after_ms} end

local rec = load(turn)
if rec and rec.s ~= 'e' then
  if rec.n == ARGV[11] then -- the same request, its reply was lost
    if rec.s == 's' then return {what_is_left(rates), 'delivered', rec.o, rec.at, rec.of} end
    local position = position_of(rec)
    return {what_is_left(rates), 'admitted', rec.o, rec.at, position, eta_ms(position, live_slots(tonumber(ARGV[21]))), rec.i or ''}
  end
  if rec.h ~= hash then return rejected('idempotency_conflict', 0) end
  return {what_is_left(rates), 'duplicate', rec.s, rec.o, rec.at, rec.k, redis.call('HGET', ENVELOPES, turn), rec.of or '', rec.i or ''}
end
local done = redis.call('GET', KEYS[15])
if done then
  local ended = cmsgpack.unpack(done)
  if ended.h ~= hash then return rejected('idempotency_conflict', 0) end
  return {what_is_left(rates), 'duplicate', ended.s, ended.o, ended.at, ended.k, '', '', ''}
end

local now = now_ms()
if ARGV[29] ~= '1' and now < tonumber(redis.call('HGET', SCHEDULE, 'unproven_until') or 0) then return {what_is_left(rates), 'unproven'} end

local owner, busy_with = active(conversation)
if owner and owner ~= user then return rejected('conversation_not_found', 0) end
if busy_with and policy == 'reject' then return rejected('conversation_busy', 1000) end
local busy = busy_with and (policy == 'steer' or policy == 'interrupt') and load(busy_with)

local over, wait = over_rate(rates)
if over then return rejected(over, wait) end

if tonumber(redis.call('HGET', SCHEDULE, 'memory') or 0) >= tonumber(ARGV[26]) then return rejected('memory', 5000) end

-- The user's live turns; those that ended unnoticed, while Valkey was being rebuilt, do not count.
local live_cap = tonumber(ARGV[27])
local live = redis.call('HLEN', KEYS[18]) - 2 -- the feed's tail and name
if live >= live_cap then
  for _, other in ipairs(redis.call('HKEYS', KEYS[18])) do
    if string.sub(other, 1, 1) ~= '#' and redis.call('HEXISTS', TURNS, other) == 0 then
      live = live - redis.call('HDEL', KEYS[18], other)
    end
  end
  if live >= live_cap then return rejected('user_queue_full', 2000) end
end

-- A steer takes no slot of its own. Without a running turn it is a turn like any other.
local steered = policy == 'steer' and busy and (busy.s == 'c' or busy.s == 'r') and busy
local slots = live_slots(tonumber(ARGV[21]))
if not steered then
  if slots == 0 then return rejected('no_capacity', 5000) end
  local present = redis.call('HLEN', TURNS)
  local queued = present - redis.call('ZCARD', LEASES)
  local max_queue = tonumber(ARGV[20])
  local too_many = max_queue >= 0 and queued + 1 - max_queue or 0
  -- What a class may take of the capacity; one turn at least, or nothing would ever run in a small system.
  local capacity = math.max(slots * (1 - tonumber(ARGV[18])) * tonumber(ARGV[19]), 1)
  local share = math.min(tonumber(ARGV[16]), tonumber(ARGV[17]))
  local beyond = present + 1 - math.max(math.floor(capacity * share + 1e-9), 1)
  if too_many > 0 or beyond > 0 then
    return rejected(too_many > 0 and 'queue_full' or 'backpressure', until_ended(math.max(too_many, beyond), slots))
  end
end

charge(rates)
local order = redis.call('HINCRBY', SCHEDULE, 'order', 1)
rec = {u = user, c = class, k = conversation, b = bundle, v = tonumber(ARGV[9]), o = order, at = now, h = hash, n = ARGV[11], t = ARGV[12]}
redis.call('HSET', ENVELOPES, turn, envelope)
feed_append(KEYS[17], KEYS[18], channels .. 'feed:' .. user, ARGV[24], ARGV[25], turn)

if steered then
  rec.of = busy_with
  park(turn, rec, STEER)
  receipt({KEYS[17], KEYS[18], channels .. 'feed:' .. user, ARGV[24]}, turn, rec, 'accepted')
  redis.call('PUBLISH', channels .. 'worker:' .. steered.w, 'steer ' .. busy_with .. ' ' .. steered.cl)
  return {what_is_left(rates), 'delivered', order, now, busy_with}
end
if busy_with then
  if policy == 'interrupt' and busy.s ~= 'e' then rec.i = busy_with end
  park(turn, rec, policy == 'interrupt' and FIRST or IN_ORDER)
else
  contend(turn, rec, cap)
end
local position = position_of(rec)
return {what_is_left(rates), 'admitted', order, now, position, eta_ms(position, slots), rec.i or ''}
