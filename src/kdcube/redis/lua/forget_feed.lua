-- Forgets what a user's feed says; who reads it is told so, and goes on from here.
-- KEYS: 1 feed:<user>, 2 live:<user>
-- ARGV: 1 channel, 2 event
-- Returns: 1 when there was a feed
-- include: feed
if redis.call('HEXISTS', KEYS[2], '#t') == 0 then return redis.call('DEL', KEYS[1]) end
feed_append(KEYS[1], KEYS[2], ARGV[1], '', ARGV[2])
redis.call('XTRIM', KEYS[1], 'MAXLEN', 1)
return 1
