-- PostgreSQL has committed START: opens the turn's log with its start event and tells the feed.
-- KEYS: 1-14 state, 15 log, 16 log meta, 17 feed:<user>, 18 live:<user>
-- ARGV: 1 epoch, 2 turn, 3 claim, 4 channel prefix, 5 head (JSON), 6 start line, 7 feed name, 8 started event
-- Returns: {'ok', incarnation, tail, cancelled 0|1} | {'fenced'}
-- include: state
-- include: feed
-- include: log
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local turn, claim, channels, head, line = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if redis.call('HGET', CLAIMS, claim) ~= turn then return {'fenced'} end
local rec = load(turn)
local meta = redis.call('HMGET', KEYS[16], 'i', 't', 'c', 'b')
local incarnation, tail = tonumber(meta[1] or 1), tonumber(meta[2] or 0)
if meta[3] == claim then return {'ok', incarnation, tail, rec.x or 0} end -- a repeat
rec.s, rec.rt = 'r', now_ms()
save(turn, rec)
tail = log_append(KEYS[15], channels .. 'log:' .. turn, ARGV[1], incarnation, tail, 1, line, head, 'open')
redis.call(
  'HSET', KEYS[16], 'i', incarnation, 't', tail, 's', 0, 'c', claim, 'x', 'open', 'h', head, 'b', (meta[4] or 0) + #line
)
redis.call('PEXPIRE', KEYS[15], OPEN_TTL_MS)
redis.call('PEXPIRE', KEYS[16], OPEN_TTL_MS)
feed_append(KEYS[17], KEYS[18], channels .. 'feed:' .. rec.u, ARGV[7], ARGV[8])
return {'ok', incarnation, tail, rec.x or 0}
