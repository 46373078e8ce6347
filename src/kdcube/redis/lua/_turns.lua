-- The working state of turns, shared by the scripts that change it. KEYS[1..14] are Keys.state().
--
-- A record (hash `turns`, msgpack) has: u user, c class, k conversation, b bundle, v envelope version, o order,
-- at accepted (ms), h content hash, n admission nonce, t the client's turn id, s state, m member in its waiting set,
-- cl claim, w worker, x 1 when cancelled, of the turn that a steer steers.
-- States: q queued, p parked behind its conversation, h held by the cap of its user, c claimed, r running,
-- s a steer in an inbox, e ended but its host has not exited yet.
--
-- A turn first waits for its conversation (parked), then for its user's cap (held), then competes (queue).

local EPOCH, TURNS, ENVELOPES, QUEUE, PARKED, HELD, USERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local CONVERSATIONS, LEASES, CLAIMS, SCHEDULE = KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local DOORBELL, BEATS, SLOTS = KEYS[12], KEYS[13], KEYS[14]
local SEP, AFTER_SEP = '\31', ' '
local DOORBELL_CAP = 64

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- A number of any size as digits: Lua 5.1 would write large ones as 1e+14.
local function digits(n) return string.format('%.0f', n) end

local function load(turn)
  local packed = redis.call('HGET', TURNS, turn)
  return packed and cmsgpack.unpack(packed)
end

local function save(turn, rec) redis.call('HSET', TURNS, turn, cmsgpack.pack(rec)) end

local function ring()
  if redis.call('LLEN', DOORBELL) < DOORBELL_CAP then redis.call('RPUSH', DOORBELL, '1') end
end

local function first(set, prefix)
  return redis.call('ZRANGEBYLEX', set, '[' .. prefix .. SEP, '(' .. prefix .. AFTER_SEP, 'LIMIT', 0, 1)[1]
end

local function turn_of(member) return string.match(member, '[^' .. SEP .. ']+$') end

-- Self-clocked fair queueing: a class's virtual time is the finish tag of the turn that it served last; a user's next
-- turn finishes one after the later of that and the user's own tag. A tag that the class has passed is forgotten.
local function compete(turn, rec)
  local tag_field = 'tag' .. SEP .. rec.c .. SEP .. rec.u
  local times = redis.call('HMGET', SCHEDULE, 'time' .. SEP .. rec.c, tag_field)
  local tag = math.max(tonumber(times[1] or 0), tonumber(times[2] or 0)) + 1
  redis.call('HSET', SCHEDULE, tag_field, digits(tag))
  rec.s = 'q'
  rec.m = table.concat({rec.c, rec.b, string.format('%015.0f', tag), string.format('%015.0f', rec.o), turn}, SEP)
  redis.call('ZADD', QUEUE, 0, rec.m)
  redis.call('HINCRBY', USERS, rec.u, 1)
  save(turn, rec)
  ring()
end

-- The conversation is free for this turn: it competes, or is held while its user has `cap` turns that do.
local function contend(turn, rec, cap)
  redis.call('HSET', CONVERSATIONS, rec.k, rec.u .. SEP .. turn)
  if tonumber(redis.call('HGET', USERS, rec.u) or 0) < cap then
    compete(turn, rec)
  else
    rec.s = 'h'
    rec.m = table.concat({rec.u, string.format('%015.0f', rec.o), turn}, SEP)
    redis.call('ZADD', HELD, 0, rec.m)
    save(turn, rec)
  end
end

-- Behind the conversation's active turn. rank '0' goes before '1' (an interrupt goes first).
local function park(turn, rec, rank)
  rec.s = 'p'
  rec.m = table.concat({rec.k, rank, string.format('%015.0f', rec.o), turn}, SEP)
  redis.call('ZADD', PARKED, 0, rec.m)
  save(turn, rec)
end

local function active(conversation)
  local value = redis.call('HGET', CONVERSATIONS, conversation)
  if not value then return nil end
  return string.match(value, '^(.*)' .. SEP .. '([^' .. SEP .. ']+)$')
end

local function next_in_conversation(conversation, cap)
  local member = first(PARKED, conversation)
  if not member then
    redis.call('HDEL', CONVERSATIONS, conversation)
    return
  end
  redis.call('ZREM', PARKED, member)
  local turn = turn_of(member)
  local rec = load(turn)
  contend(turn, rec, cap)
end

local function forget_tag(rec)
  redis.call('HDEL', SCHEDULE, 'tag' .. SEP .. rec.c .. SEP .. rec.u)
end

-- The user competes with one turn fewer: the next one that is held takes its place.
local function release_user(rec)
  if redis.call('HINCRBY', USERS, rec.u, -1) <= 0 then
    redis.call('HDEL', USERS, rec.u)
    forget_tag(rec)
  end
  local member = first(HELD, rec.u)
  if member then
    redis.call('ZREM', HELD, member)
    local turn = turn_of(member)
    compete(turn, load(turn))
  end
end

local function forget_claim(turn, rec)
  redis.call('ZREM', LEASES, turn)
  if rec.cl then
    redis.call('HDEL', CLAIMS, rec.cl)
    redis.call('HINCRBY', SCHEDULE, 'running' .. SEP .. rec.c, -1)
  end
end

-- Takes a turn out of wherever it is and lets what waited for it go on. A conversation that `keeps` stays busy.
local function leave(turn, rec, cap, keeps)
  if rec.s == 'q' then
    redis.call('ZREM', QUEUE, rec.m)
    release_user(rec)
  elseif rec.s == 'p' then
    redis.call('ZREM', PARKED, rec.m)
  elseif rec.s == 'h' then
    redis.call('ZREM', HELD, rec.m)
  elseif rec.s == 'c' or rec.s == 'r' then
    forget_claim(turn, rec)
    release_user(rec)
  end
  redis.call('HDEL', TURNS, turn)
  redis.call('HDEL', ENVELOPES, turn)
  local _, busy_with = active(rec.k)
  if busy_with == turn and not keeps then next_in_conversation(rec.k, cap) end
  if redis.call('ZCARD', QUEUE) > 0 then ring() end
end

local function check_epoch(given)
  if redis.call('GET', EPOCH) ~= given then return redis.error_reply('EPOCH the working state is of another epoch') end
end

-- Slots of the workers whose last heartbeat is younger than `ttl_ms`.
local function live_slots(ttl_ms)
  local workers = redis.call('ZRANGEBYSCORE', BEATS, digits(now_ms() - ttl_ms), '+inf')
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
