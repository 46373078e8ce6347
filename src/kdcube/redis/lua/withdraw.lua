#!lua flags=allow-oom
-- Takes back an admission that PostgreSQL refused, unless a worker has claimed it (its START will be refused too).
-- KEYS: 1-14 state, 15 feed:<user>, 16 live:<user>
-- ARGV: 1 epoch, 2 turn, 3 nonce, 4 cap of running turns a user, 5 channel prefix, 6 feed name, 7 withdrawn event
-- Returns: 1 when withdrawn, 0 when absent, of another admission or claimed
-- include: turns
-- include: feed
-- include: steers
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local turn = ARGV[2]
local rec = load(turn)
if not rec or rec.n ~= ARGV[3] or rec.s == 'c' or rec.s == 'r' or rec.s == 'e' then return 0 end
local to = {KEYS[15], KEYS[16], ARGV[5] .. 'feed:' .. rec.u, ARGV[6]}
for _, pair in ipairs(steers_of(turn, rec.k)) do bounce(to, pair[1], pair[2]) end -- it was claimed once
leave(turn, rec, tonumber(ARGV[4]), false)
redis.call('HDEL', KEYS[16], turn)
feed_append(to[1], to[2], to[3], to[4], ARGV[7])
return 1
