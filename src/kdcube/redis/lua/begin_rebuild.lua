#!lua flags=allow-oom
-- Empties the working state and closes it to everybody until the epoch is published. Logs and feeds stay.
-- KEYS: 1-14 state, 15 building
-- ARGV: 1 new epoch
-- Returns: 1 | 0 when this or a later epoch stands or a later one is being built
local new = tonumber(ARGV[1])
if tonumber(redis.call('GET', KEYS[1]) or 0) >= new or tonumber(redis.call('GET', KEYS[15]) or 0) > new then return 0 end
-- All but heartbeats and slots, which the workers renew themselves. First, so that a full memory has room for the rest.
for i = 1, 12 do redis.call('UNLINK', KEYS[i]) end
redis.call('SET', KEYS[15], ARGV[1])
return 1
