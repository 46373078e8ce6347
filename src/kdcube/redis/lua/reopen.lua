-- Begins a new incarnation of a running turn's log with a snapshot: the old one was lost or rolled back (rules 14, 15).
-- KEYS: 1 epoch, 2 claims, 3 log, 4 log meta
-- ARGV: 1 epoch, 2 turn, 3 claim, 4 sequence number, 5 snapshot line, 6 head (JSON), 7 channel, 8 lowest incarnation
-- Returns: {'ok', incarnation, tail} | {'fenced'}
-- include: log
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('EPOCH the working state is of another epoch') end
local claim, line, head = ARGV[3], ARGV[5], ARGV[6]
if redis.call('HGET', KEYS[2], claim) ~= ARGV[2] then return {'fenced'} end
local meta = redis.call('HMGET', KEYS[4], 'i', 't', 's', 'c', 'x')
if meta[5] == 'closed' then return {'fenced'} end
if meta[4] == claim and tonumber(meta[3]) == tonumber(ARGV[4]) and tonumber(meta[2]) == 1 then
  return {'ok', tonumber(meta[1]), 1} -- a repeat
end
local incarnation = math.max(tonumber(meta[1] or 0) + 1, tonumber(ARGV[8]))
redis.call('DEL', KEYS[3])
log_append(KEYS[3], ARGV[7], ARGV[1], incarnation, 0, 1, line, head, 'open')
redis.call('HSET', KEYS[4], 'i', incarnation, 't', 1, 's', ARGV[4], 'c', claim, 'x', 'open', 'h', head, 'b', #line)
redis.call('PEXPIRE', KEYS[3], OPEN_TTL_MS)
redis.call('PEXPIRE', KEYS[4], OPEN_TTL_MS)
return {'ok', incarnation, 1}
