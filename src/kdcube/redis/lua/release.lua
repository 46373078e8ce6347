#!lua flags=allow-oom
-- Hands a claimed turn back to its place in the queue: before START, or for another attempt that PostgreSQL granted.
-- KEYS: 1-14 state
-- ARGV: 1 epoch, 2 turn, 3 claim, 4 '1' when only an expired claim that has not started may be taken away,
--       5 cap of running turns a user
-- Returns: 1 when it waits again, 0 when it is not under that claim (or its lease is not expired)
-- include: turns
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local turn = ARGV[2]
if redis.call('HGET', CLAIMS, ARGV[3]) ~= turn then return 0 end
local rec = load(turn)
if ARGV[4] == '1' and (rec.s ~= 'c' or tonumber(redis.call('ZSCORE', LEASES, turn)) > now_ms()) then return 0 end
forget_claim(turn, rec)
rec.cl, rec.w, rec.rt = nil, nil, nil
local _, busy_with = active(rec.k)
if busy_with == turn then
  rec.s = 'q'
  redis.call('ZADD', QUEUE, 0, rec.m)
  save(turn, rec)
else -- the conversation was given to a turn that PostgreSQL knows as running
  release_user(rec, tonumber(ARGV[5]))
  park(turn, rec, FIRST)
end
ring()
return 1
