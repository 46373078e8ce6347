-- The working state of turns, shared by the scripts that change it. KEYS[1..14] are Keys.state().
--
-- A record (hash `turns`, msgpack) has: u user, c class, k conversation, b bundle, v envelope version, o order,
-- at accepted (ms), rt started (ms), h content hash, n admission nonce, t the client's turn id, s state, m member in its
-- waiting set, i the turn that it asked to cancel, cl claim, w worker, x 1 when cancelled, of the turn that a steer
-- steers, seen the claim that was given the steer.
-- States: q queued, p parked behind its conversation, h held by the cap of its user, c claimed, r running,
-- s a steer (parked behind the turn that it steers, with a rank of its own), e ended but its host has not exited yet.
--
-- A turn first waits for its conversation (parked), then for its user's cap (held), then competes (queue).
-- A claim is current if and only if `claims` names its turn: c and r have one, e has none any more.

local EPOCH, TURNS, ENVELOPES, QUEUE, PARKED, HELD, USERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local CONVERSATIONS, LEASES, CLAIMS, SCHEDULE = KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local DOORBELL, BEATS, SLOTS = KEYS[12], KEYS[13], KEYS[14]
local SEP, AFTER_SEP = '\31', ' '
local DOORBELL_CAP = 64
local FIRST, IN_ORDER, STEER = '0', '1', '2' -- ranks in `parked`

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- For members that sort by a number. (As an argument of redis.call a number needs no care, it is written in full.)
local function sortable(n) return string.format('%015.0f', n) end

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

local function turn_of(member) return string.match(member, '.*' .. SEP .. '(.*)') end

-- What a user has (hash `users`, msgpack): n turns that compete or are claimed; tags, by class the finish tag of the
-- latest one that competed.
local function load_user(user)
  local packed = redis.call('HGET', USERS, user)
  return packed and cmsgpack.unpack(packed) or {n = 0, tags = {}}
end

local function save_user(user, has)
  if has.n > 0 then
    redis.call('HSET', USERS, user, cmsgpack.pack(has))
  else
    redis.call('HDEL', USERS, user)
  end
end

-- Self-clocked fair queueing: a class's virtual time is the finish tag of the turn that it served last; a user's next
-- turn finishes one after the later of that and the user's own tag. `has` is what its user has; the caller saves it.
local function compete(turn, rec, has)
  local time = tonumber(redis.call('HGET', SCHEDULE, 'time' .. SEP .. rec.c) or 0)
  local tag = math.max(time, has.tags[rec.c] or 0) + 1
  has.n, has.tags[rec.c] = has.n + 1, tag
  rec.s = 'q'
  rec.m = table.concat({rec.c, rec.b, sortable(tag), sortable(rec.o), turn}, SEP)
  redis.call('ZADD', QUEUE, 0, rec.m)
  save(turn, rec)
  ring()
end

-- The conversation is free for this turn: it competes, or is held while its user has `cap` turns that do.
local function contend(turn, rec, cap)
  redis.call('HSET', CONVERSATIONS, rec.k, rec.u .. SEP .. turn)
  local has = load_user(rec.u)
  if has.n < cap then
    compete(turn, rec, has)
    save_user(rec.u, has)
  else
    rec.s = 'h'
    rec.m = table.concat({rec.u, sortable(rec.o), turn}, SEP)
    redis.call('ZADD', HELD, 0, rec.m)
    save(turn, rec)
  end
end

-- Behind the conversation's active turn: by rank, then by order. (An interrupt goes first.)
local function park(turn, rec, rank)
  rec.s = rank == STEER and 's' or 'p'
  rec.m = table.concat({rec.k, rank, sortable(rec.o), turn}, SEP)
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

-- The user competes with one turn fewer: those that are held take its place.
local function release_user(rec, cap)
  local has = load_user(rec.u)
  has.n = has.n - 1
  if has.n == 0 then has.tags = {} end
  while has.n < cap do
    local member = first(HELD, rec.u)
    if not member then break end
    redis.call('ZREM', HELD, member)
    local turn = turn_of(member)
    compete(turn, load(turn), has)
  end
  save_user(rec.u, has)
end

local function forget_claim(turn, rec)
  redis.call('ZREM', LEASES, turn)
  redis.call('HDEL', CLAIMS, rec.cl)
  redis.call('HINCRBY', SCHEDULE, 'running' .. SEP .. rec.c, -1)
end

-- Takes a turn out of wherever it is and lets what waited for it go on. A conversation that `keeps` stays busy.
local function leave(turn, rec, cap, keeps)
  if rec.s == 'q' then
    redis.call('ZREM', QUEUE, rec.m)
    release_user(rec, cap)
  elseif rec.s == 'p' or rec.s == 's' then
    redis.call('ZREM', PARKED, rec.m)
  elseif rec.s == 'h' then
    redis.call('ZREM', HELD, rec.m)
  elseif rec.s == 'c' or rec.s == 'r' then
    forget_claim(turn, rec)
    release_user(rec, cap)
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
