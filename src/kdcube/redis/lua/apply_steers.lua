-- PostgreSQL has committed that the bundle takes these steers.
-- KEYS: 1-14 state, 15 inbox:<conversation>, 16 feed:<user>, 17 live:<user>, 18.. done:<steer> of each
-- ARGV: 1 epoch, 2 turn, 3 claim, 4 channel prefix, 5 feed name, 6 done ttl ms, 7.. steers
-- Returns: 1 | 'fenced'
-- include: turns
-- include: feed
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local rec = load(ARGV[2])
if not rec or rec.cl ~= ARGV[3] then return 'fenced' end
local now = now_ms()
for i = 7, #ARGV do
  local steer = ARGV[i]
  local steer_rec = load(steer)
  if steer_rec then
    redis.call('LREM', KEYS[15], 0, steer)
    redis.call('HDEL', TURNS, steer)
    redis.call('HDEL', ENVELOPES, steer)
    redis.call('HDEL', KEYS[17], steer)
    redis.call('SET', KEYS[18 + i - 7], cmsgpack.pack({h = steer_rec.h, s = 'applied', k = rec.k, o = steer_rec.o, at = steer_rec.at}), 'PX', ARGV[6])
    feed_append(KEYS[16], KEYS[17], ARGV[4] .. 'feed:' .. rec.u, ARGV[5], cjson.encode({
      type = 'steer.receipt', ts = now, turn_id = steer, client_turn_id = steer_rec.t, conversation_id = rec.k,
      steered_turn_id = ARGV[2], state = 'applied',
    }))
  end
end
return 1
