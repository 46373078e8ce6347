-- A user's feed after an offset, and the user's live turns.
-- KEYS: 1 epoch, 2 feed:<user>, 3 live:<user>
-- ARGV: 1 after this offset ('' for the tail only), 2 entries at most
-- Returns: {epoch or '', feed name or '', tail, first offset kept (0: none), live turns as {turn, accepted offset},
--           list of {offset, event}}
local all = redis.call('HGETALL', KEYS[3])
local name, tail, live = '', 0, {}
for i = 1, #all, 2 do
  if all[i] == '#g' then name = all[i + 1]
  elseif all[i] == '#t' then tail = tonumber(all[i + 1])
  else live[#live + 1] = {all[i], tonumber(all[i + 1])} end
end
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local entries = {}
if ARGV[1] ~= '' then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], string.format('%.0f-0', ARGV[1] + 1), '+', 'COUNT', ARGV[2])) do
    entries[#entries + 1] = {tonumber(string.match(entry[1], '^%d+')), entry[2][2]}
  end
end
return {redis.call('GET', KEYS[1]) or '', name, tail, oldest and tonumber(string.match(oldest[1], '^%d+')) or 0, live, entries}
