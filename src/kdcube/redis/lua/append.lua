-- Appends a batch to a running turn's log, under its fence. The same sequence number changes nothing twice.
-- KEYS: 1 epoch, 2 claims, 3 log, 4 log meta
-- ARGV: 1 epoch, 2 turn, 3 claim, 4 sequence number, 5 expected tail, 6 number of events, 7 lines, 8 channel, 9 max bytes
-- Returns: {'ok', tail} | {'fenced'} | {'rewound'} (the log is shorter than expected, or gone) | {'full'}
-- include: log
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('EPOCH the working state is of another epoch') end
local claim, lines = ARGV[3], ARGV[7]
if redis.call('HGET', KEYS[2], claim) ~= ARGV[2] then return {'fenced'} end
local meta = redis.call('HMGET', KEYS[4], 'i', 't', 's', 'c', 'x', 'b')
if meta[5] == 'closed' then return {'fenced'} end
if meta[4] ~= claim then return {'rewound'} end
local tail, seq = tonumber(meta[2]), tonumber(ARGV[4])
if seq <= tonumber(meta[3]) then return {'ok', tail} end
if tail ~= tonumber(ARGV[5]) then return {'rewound'} end
local bytes = meta[6] + #lines
if bytes > tonumber(ARGV[9]) then return {'full'} end
tail = log_append(KEYS[3], ARGV[8], ARGV[1], tonumber(meta[1]), tail, tonumber(ARGV[6]), lines, '', 'open')
redis.call('HSET', KEYS[4], 't', tail, 's', seq, 'b', bytes)
return {'ok', tail}
