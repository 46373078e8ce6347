-- Counts a request against the rates of its user and address, or only tells what is left of them.
-- KEYS: 1 rate:<user>, 2 rate:<address> (the user's again when no address counts)
-- ARGV: 1 burst, 2 burst window ms, 3 hourly, 4 share of an address, 5 1 to count, 0 to tell
--       (1, 3: -1 is no limit; 4: 0 is no address)
-- Returns: {reason or '', retry after ms, {left of the burst, ms, left of the hour, ms}}; a refusal counts nothing
-- include: rates
local rates = rates_of(KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
local reason, wait = over_rate(rates)
if ARGV[5] == '0' then return {'', 0, what_is_left(rates)} end
if reason then return {reason, wait, what_is_left(rates)} end
charge(rates)
return {'', 0, what_is_left(rates)}
