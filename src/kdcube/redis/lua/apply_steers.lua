#!lua flags=allow-oom
-- PostgreSQL has committed that the bundle takes these steers.
-- KEYS: 1-14 state, 15 feed:<user>, 16 live:<user>, 17.. done:<steer> of each
-- ARGV: 1 epoch, 2 turn, 3 claim, 4 channel prefix, 5 feed name, 6 done ttl ms, 7.. steers
-- Returns: 1 | 'fenced'
-- include: turns
-- include: feed
-- include: steers
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local turn = ARGV[2]
if redis.call('HGET', CLAIMS, ARGV[3]) ~= turn then return 'fenced' end
for i = 7, #ARGV do
  local rec = load(ARGV[i])
  if rec and rec.of == turn then
    settle({KEYS[15], KEYS[16], ARGV[4] .. 'feed:' .. rec.u, ARGV[5]}, ARGV[i], rec, 'applied', KEYS[17 + i - 7], ARGV[6])
  end
end
return 1
