-- Hands a claimed turn back to its place in the queue: before START, or for another attempt that PostgreSQL granted.
-- KEYS: 1-14 state
-- ARGV: 1 epoch, 2 turn, 3 claim, 4 '1' when only an expired claim that has not started may be taken away
-- Returns: 1 when it waits again, 0 when it is not under that claim (or its lease is not expired)
-- include: turns
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local turn = ARGV[2]
local rec = load(turn)
if not rec or rec.cl ~= ARGV[3] or rec.s == 'e' then return 0 end
if ARGV[4] == '1' and (rec.s ~= 'c' or tonumber(redis.call('ZSCORE', LEASES, turn) or 0) > now_ms()) then return 0 end
forget_claim(turn, rec)
rec.s, rec.cl, rec.w = 'q', nil, nil
redis.call('ZADD', QUEUE, 0, rec.m)
save(turn, rec)
ring()
return 1
