#!lua flags=allow-oom
-- Takes back an admission that PostgreSQL refused, unless a worker has claimed it (its START will be refused too).
-- What it was charged is given back.
-- KEYS: 1-14 state, 15 feed:<user>, 16 live:<user>, 17 on rates that it was charged to
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
for place = 17, #KEYS do
  for count, begun in pairs({b = 'bt', h = 'ht'}) do
    local of = redis.call('HMGET', KEYS[place], count, begun)
    -- In a window that has begun since, it does not count.
    if tonumber(of[1] or 0) > 0 and tonumber(of[2]) <= rec.at then redis.call('HINCRBY', KEYS[place], count, -1) end
  end
end
feed_append(to[1], to[2], to[3], to[4], ARGV[7])
return 1
