-- Gives a turn's steers that are not applied to its worker, as often as it asks; each gets the receipt `seen` once.
-- KEYS: 1-14 state, 15 feed:<user>, 16 live:<user>
-- ARGV: 1 epoch, 2 turn, 3 claim, 4 channel prefix, 5 feed name
-- Returns: list of {envelope, order, accepted ms} | 'fenced'
-- include: turns
-- include: feed
-- include: steers
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local turn, claim = ARGV[2], ARGV[3]
if redis.call('HGET', CLAIMS, claim) ~= turn then return 'fenced' end
local rec = load(turn)
local to = {KEYS[15], KEYS[16], ARGV[4] .. 'feed:' .. rec.u, ARGV[5]}
local taken = {}
for _, pair in ipairs(steers_of(turn, rec.k)) do
  local steer, steer_rec = pair[1], pair[2]
  if not steer_rec.seen then
    receipt(to, steer, steer_rec, 'seen')
    steer_rec.seen = 1
    save(steer, steer_rec)
  end
  taken[#taken + 1] = {redis.call('HGET', ENVELOPES, steer), steer_rec.o, steer_rec.at}
end
return taken
