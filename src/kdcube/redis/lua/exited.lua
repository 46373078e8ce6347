#!lua flags=allow-oom
-- The host of a turn that had ended without answering its cancel has exited: its conversation goes on.
-- KEYS: 1-14 state
-- ARGV: 1 epoch, 2 turn, 3 claim, 4 cap of running turns a user
-- Returns: 1 | 0 when there is nothing to free
-- include: turns
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local turn = ARGV[2]
local rec = load(turn)
if not rec or rec.s ~= 'e' or rec.cl ~= ARGV[3] then return 0 end
redis.call('ZREM', LEASES, turn)
leave(turn, rec, tonumber(ARGV[4]), false)
return 1
