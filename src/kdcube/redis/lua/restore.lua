-- Puts one unfinished turn of PostgreSQL back, in its old order and without limits, while an epoch is being built or,
-- for a turn that the working state lacks, under the current one; or one that ended and whose code may still run.
-- KEYS: 1-14 state, 15 building, 16 feed:<user>, 17 live:<user>, 18 done:<turn>
-- ARGV: 1 epoch, 2 turn, 3 envelope, 4 content hash, 5 user, 6 class, 7 conversation, 8 bundle, 9 envelope version,
--       10 client turn id, 11 order, 12 accepted ms, 13 state, 14 claim, 15 worker,
--       16 steered turn, 17 cap of running turns a user, 18 lease ms, 19 channel prefix, 20 feed name, 21 accepted event,
--       22 1 when cancelled, 23 1 when it goes before what waits in its conversation, 24 done ttl ms
-- Returns: 1 | 0 when the working state has it, or it has ended since PostgreSQL was read
-- include: turns
-- include: feed
if redis.call('GET', EPOCH) ~= ARGV[1] and redis.call('GET', KEYS[15]) ~= ARGV[1] then
  return redis.error_reply('EPOCH the working state is of another epoch')
end
local turn, conversation, user, state = ARGV[2], ARGV[7], ARGV[5], ARGV[13]
local ended = state ~= 'queued' and state ~= 'running' and state ~= 'steering'
if redis.call('HEXISTS', TURNS, turn) == 1 then return 0 end
local done = redis.call('GET', KEYS[18])
if done and not ended then
  -- A steer that was applied is queued only when PostgreSQL took that back: its bundle ended before it had it.
  if state ~= 'queued' or cmsgpack.unpack(done).s ~= 'applied' then return 0 end
  redis.call('DEL', KEYS[18])
end
local order, cap = tonumber(ARGV[11]), tonumber(ARGV[17])
if order > tonumber(redis.call('HGET', SCHEDULE, 'order') or 0) then redis.call('HSET', SCHEDULE, 'order', order) end
local rec = {u = user, c = ARGV[6], k = conversation, b = ARGV[8], v = tonumber(ARGV[9]), o = order, at = tonumber(ARGV[12]), h = ARGV[4], n = '', t = ARGV[10]}
if ended then
  redis.call('SET', KEYS[18], cmsgpack.pack({h = rec.h, s = state, k = rec.k, o = rec.o, at = rec.at}), 'PX', ARGV[24])
else
  redis.call('HSET', ENVELOPES, turn, ARGV[3])
  if redis.call('HEXISTS', KEYS[17], turn) == 0 then
    feed_append(KEYS[16], KEYS[17], ARGV[19] .. 'feed:' .. user, ARGV[20], ARGV[21], turn)
  end
end
local _, busy_with = active(conversation)
if state == 'running' or ended then
  local other = busy_with and load(busy_with)
  if other and other.s == 'q' then -- it took the conversation while this turn was missing, and waits again
    redis.call('ZREM', QUEUE, other.m)
    release_user(other, cap)
    park(busy_with, other, FIRST)
  elseif other and other.s == 'h' then
    redis.call('ZREM', HELD, other.m)
    park(busy_with, other, FIRST)
  end
  redis.call('HSET', CONVERSATIONS, conversation, user .. SEP .. turn)
  redis.call('ZADD', LEASES, now_ms() + ARGV[18], turn)
  rec.s, rec.cl, rec.w = 'e', ARGV[14], ARGV[15]
  if state == 'running' then
    rec.s, rec.x = 'r', ARGV[22] == '1' and 1 or nil
    rec.m = table.concat({rec.c, rec.b, sortable(0), sortable(rec.o), turn}, SEP)
    redis.call('HSET', CLAIMS, rec.cl, turn)
    local has = load_user(user)
    has.n = has.n + 1
    save_user(user, has)
    redis.call('HINCRBY', SCHEDULE, 'running' .. SEP .. rec.c, 1)
  end
  save(turn, rec)
elseif state == 'steering' and busy_with == ARGV[16] then
  rec.of = busy_with
  park(turn, rec, STEER)
elseif busy_with then
  park(turn, rec, ARGV[23] == '1' and FIRST or IN_ORDER)
else
  contend(turn, rec, cap)
end
ring()
return 1
