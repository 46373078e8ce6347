-- PostgreSQL has decided the end: closes the log, tells the feed, moves steers and the next turn on, frees the slot.
-- KEYS: 1-14 state, 15 log, 16 log meta, 17 feed:<user>, 18 live:<user>, 19 inbox:<conversation>, 20 done:<turn>,
--       21.. done:<steer> of each steer that is discarded
-- ARGV: 1 epoch, 2 turn, 3 claim ('*': whoever holds it, because PostgreSQL is terminal), 4 channel prefix,
--       5 terminal line, 6 state, 7 feed name, 8 ended event, 9 cap of running turns a user, 10 log ttl ms,
--       11 done ttl ms, 12 '1' when the conversation waits for the host's exit, 13.. steers that are discarded
-- Returns: {'ok'} | {'absent'} | {'fenced'}
-- include: turns
-- include: feed
-- include: log
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local turn, claim, channels, cap = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[9])
local rec = load(turn)
if not rec or rec.s == 'e' then return {'absent'} end
if claim ~= '*' and rec.cl ~= claim then return {'fenced'} end
local log_ttl, done_ttl = ARGV[10], ARGV[11]
local now = now_ms()

local meta = redis.call('HMGET', KEYS[16], 'i', 't', 'x')
if meta[3] ~= 'closed' then
  local incarnation = tonumber(meta[1] or 1)
  local tail = log_append(KEYS[15], KEYS[16], channels .. 'log:' .. turn, ARGV[1], incarnation, tonumber(meta[2] or 0), 1, ARGV[5], '', 'closed')
  redis.call('HSET', KEYS[16], 'i', incarnation, 't', string.format('%.0f', tail), 'x', 'closed')
end
redis.call('PEXPIRE', KEYS[15], log_ttl)
redis.call('PEXPIRE', KEYS[16], log_ttl)

local feed_channel = channels .. 'feed:' .. rec.u
local function receipt(steer, steer_rec, state)
  feed_append(KEYS[17], KEYS[18], feed_channel, ARGV[7], cjson.encode({
    type = 'steer.receipt', ts = now, turn_id = steer, client_turn_id = steer_rec.t, conversation_id = rec.k,
    steered_turn_id = turn, state = state,
  }))
end
local discarded = {}
for i = 13, #ARGV do discarded[ARGV[i]] = KEYS[21 + i - 13] end
if rec.s == 'c' or rec.s == 'r' then
  for _, steer in ipairs(redis.call('LRANGE', KEYS[19], 0, -1)) do
    local steer_rec = load(steer)
    if steer_rec and discarded[steer] then
      redis.call('SET', discarded[steer], cmsgpack.pack({h = steer_rec.h, s = 'cancelled', k = rec.k, o = steer_rec.o, at = steer_rec.at}), 'PX', done_ttl)
      redis.call('HDEL', TURNS, steer)
      redis.call('HDEL', ENVELOPES, steer)
      redis.call('HDEL', KEYS[18], steer)
      receipt(steer, steer_rec, 'cancelled')
    elseif steer_rec then
      steer_rec.of = nil
      park(steer, steer_rec, '1')
      receipt(steer, steer_rec, 'bounced')
    end
  end
  redis.call('DEL', KEYS[19])
  -- How long turns take, for estimates: an exponentially weighted mean of the last 20 or so.
  local mean = tonumber(redis.call('HGET', SCHEDULE, 'mean_ms') or 1000)
  redis.call('HSET', SCHEDULE, 'mean_ms', string.format('%.0f', mean + (now - (rec.rt or rec.at) - mean) / 20))
end

if rec.s == 's' then redis.call('LREM', KEYS[19], 0, turn) end

feed_append(KEYS[17], KEYS[18], feed_channel, ARGV[7], ARGV[8])
redis.call('HDEL', KEYS[18], turn)
redis.call('SET', KEYS[20], cmsgpack.pack({h = rec.h, s = ARGV[6], k = rec.k, o = rec.o, at = rec.at}), 'PX', done_ttl)
local keeps = ARGV[12] == '1'
local lease = keeps and redis.call('ZSCORE', LEASES, turn)
leave(turn, rec, cap, keeps)
if keeps then -- the record stays as what occupies the conversation, under a lease that the worker renews
  rec.s = 'e'
  save(turn, rec)
  redis.call('ZADD', LEASES, lease or digits(now), turn)
end
return {'ok'}
