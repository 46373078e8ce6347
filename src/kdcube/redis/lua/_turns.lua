-- How turns move from place to place.
-- include: state

local function first(set, prefix)
  return redis.call('ZRANGEBYLEX', set, '[' .. prefix .. SEP, '(' .. prefix .. AFTER_SEP, 'LIMIT', 0, 1)[1]
end

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
-- turn finishes one after the later of that and the user's own tag. `has` is what its user has; the caller saves it,
-- and rings.
local function compete(turn, rec, has)
  local time = tonumber(redis.call('HGET', SCHEDULE, 'time' .. SEP .. rec.c) or 0)
  local tag = math.max(time, has.tags[rec.c] or 0) + 1
  has.n, has.tags[rec.c] = has.n + 1, tag
  rec.s = 'q'
  rec.m = table.concat({rec.c, rec.b, sortable(tag), sortable(rec.o), turn}, SEP)
  redis.call('ZADD', QUEUE, 0, rec.m)
  save(turn, rec)
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
  ring()
end
