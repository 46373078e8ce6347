-- Gives the steers of a running turn to its worker; each gets the receipt `seen` once.
-- KEYS: 1-14 state, 15 inbox:<conversation>, 16 feed:<user>, 17 live:<user>
-- ARGV: 1 epoch, 2 turn, 3 claim, 4 channel prefix, 5 feed name
-- Returns: list of {steer, envelope} not given before | 'fenced'
-- include: turns
-- include: feed
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local rec = load(ARGV[2])
if not rec or rec.cl ~= ARGV[3] then return 'fenced' end
local now = now_ms()
local taken = {}
for _, steer in ipairs(redis.call('LRANGE', KEYS[15], 0, -1)) do
  local steer_rec = load(steer)
  if steer_rec and steer_rec.seen ~= ARGV[3] then
    if not steer_rec.seen then
      feed_append(KEYS[16], KEYS[17], ARGV[4] .. 'feed:' .. rec.u, ARGV[5], cjson.encode({
        type = 'steer.receipt', ts = now, turn_id = steer, client_turn_id = steer_rec.t, conversation_id = rec.k,
        steered_turn_id = ARGV[2], state = 'seen',
      }))
    end
    steer_rec.seen = ARGV[3]
    save(steer, steer_rec)
    taken[#taken + 1] = {steer, redis.call('HGET', ENVELOPES, steer)}
  end
end
return taken
