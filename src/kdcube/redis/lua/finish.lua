#!lua flags=allow-oom
-- PostgreSQL has decided the end: closes the log, tells the feed, moves steers and the next turn on, frees the slot.
-- A turn that the working state lacks (it was rebuilt since that decision) still gets its log closed and its feed told.
-- KEYS: 1-14 state, 15 log, 16 log meta, 17 feed:<user>, 18 live:<user>, 19 done:<turn>,
--       20.. done:<steer> of each steer that is discarded
-- ARGV: 1 epoch, 2 turn, 3 claim ('*': whoever holds it, because PostgreSQL is terminal), 4 channel prefix, 5 user,
--       6 terminal line, 7 state, 8 feed name, 9 ended event, 10 cap of running turns a user, 11 log ttl ms,
--       12 done ttl ms, 13 '1' when the conversation waits for the host's exit,
--       14 'incarnation tail' that the log must have to say what PostgreSQL has; when that is not known: 'any' for a
--       turn that had a log, else ''
--       15.. steers that are discarded
-- Returns: {'ok'} | {'absent'} | {'fenced'}
-- include: turns
-- include: feed
-- include: log
-- include: steers
local MEAN_OF = 20 -- turns, about: how long turns take is an exponentially weighted mean
-- Above this share of the memory (per mille) what a turn leaves lives a fraction of its time: PostgreSQL has it all, and
-- admission stops when memory is full.
local THRIFTY_ABOVE, THRIFT = 500, 15

local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local turn, claim, channels, cap = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[10])
local known = redis.call('HMGET', SCHEDULE, 'memory', 'mean_ms')
local memory, mean = tonumber(known[1] or 0), tonumber(known[2] or 1000)
local thrift = memory >= THRIFTY_ABOVE and THRIFT or 1
local log_ttl, done_ttl = math.floor(ARGV[11] / thrift), math.floor(ARGV[12] / thrift)
local to = {KEYS[17], KEYS[18], channels .. 'feed:' .. ARGV[5], ARGV[8]}
local rec = load(turn)
if rec and rec.s == 'e' then rec = nil end -- it has left already; only its conversation waits
if rec and claim ~= '*' and rec.cl ~= claim then return {'fenced'} end

local meta = redis.call('HMGET', KEYS[16], 'i', 't', 'x')
local said = string.format('%s %s', meta[1] or 0, meta[2] or 0)
local must = ARGV[14] == 'any' and (meta[1] or not rec) and said or ARGV[14]
if meta[3] ~= 'closed' and must ~= '' and must ~= said then
  -- It was lost or rolled back since, or the end of what was said could not be written: who reads gets the stored turn.
  redis.call('DEL', KEYS[15], KEYS[16])
  local incarnation = (string.match(must, '^%d+') or 0) + 1
  redis.call('PUBLISH', channels .. 'log:' .. turn, string.format('%s %.0f 0 1 closed 0\n', ARGV[1], incarnation))
elseif meta[3] ~= 'closed' and (rec or meta[1]) then
  local incarnation, tail = tonumber(meta[1] or 1), tonumber(meta[2] or 0)
  tail = log_append(KEYS[15], channels .. 'log:' .. turn, ARGV[1], incarnation, tail, 1, ARGV[6], '', 'closed')
  redis.call('HSET', KEYS[16], 'i', incarnation, 't', tail, 'x', 'closed')
  redis.call('PEXPIRE', KEYS[15], log_ttl)
  redis.call('PEXPIRE', KEYS[16], log_ttl)
end
local was_live = redis.call('HDEL', KEYS[18], turn) == 1
if rec or was_live then feed_append(to[1], to[2], to[3], to[4], ARGV[9]) end
if not rec then return {'absent'} end

local discarded = {}
for i = 15, #ARGV do discarded[ARGV[i]] = KEYS[20 + i - 15] end
for _, pair in ipairs(steers_of(turn, rec.k)) do
  local steer, steer_rec = pair[1], pair[2]
  if discarded[steer] then
    settle(to, steer, steer_rec, 'cancelled', discarded[steer], done_ttl)
  else
    bounce(to, steer, steer_rec)
  end
end

if rec.s == 'r' and rec.rt then
  redis.call('HSET', SCHEDULE, 'mean_ms', mean + (now_ms() - rec.rt - mean) / MEAN_OF)
end
redis.call('SET', KEYS[19], cmsgpack.pack({h = rec.h, s = ARGV[7], k = rec.k, o = rec.o, at = rec.at}), 'PX', done_ttl)
local keeps = ARGV[13] == '1' and (rec.s == 'c' or rec.s == 'r')
local lease = keeps and redis.call('ZSCORE', LEASES, turn)
leave(turn, rec, cap, keeps)
if keeps then -- the record stays as what occupies the conversation, under a lease that the worker renews
  rec.s = 'e'
  save(turn, rec)
  redis.call('ZADD', LEASES, lease, turn)
end
return {'ok'}
