#!lua flags=allow-oom
-- Tells the worker of a turn that PostgreSQL has its cancel; the mark stays for a worker that missed the message.
-- KEYS: 1 epoch, 2 turns
-- ARGV: 1 epoch, 2 turn, 3 channel prefix
-- Returns: 1 when a worker has it, 0 otherwise
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('EPOCH the working state is of another epoch') end
local packed = redis.call('HGET', KEYS[2], ARGV[2])
if not packed then return 0 end
local rec = cmsgpack.unpack(packed)
if rec.s ~= 'c' and rec.s ~= 'r' then return 0 end
rec.x = 1
redis.call('HSET', KEYS[2], ARGV[2], cmsgpack.pack(rec))
redis.call('PUBLISH', ARGV[3] .. 'worker:' .. rec.w, 'cancel ' .. ARGV[2] .. ' ' .. rec.cl)
return 1
