-- One page of a turn's log after an offset, with what a reader must know to go on.
-- KEYS: 1 epoch, 2 turns, 3 log, 4 log meta
-- ARGV: 1 turn, 2 after this offset, 3 entries at most (fewer when they are large)
-- Returns: {epoch or '', known 0|1 (the turn is in the working state), incarnation, tail, status or '', head,
--           list of {offset of the last event, lines}}
local STEP, PAGE_BYTES = 16, 262144 -- entries are fetched by steps until there is a page: one may have 64 KB and more
local meta = redis.call('HMGET', KEYS[4], 'i', 't', 'x', 'h')
local entries, bytes = {}, 0
if meta[1] then
  local most, from = tonumber(ARGV[3]), string.format('%.0f-0', ARGV[2] + 1)
  repeat
    local step = redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', math.min(STEP, most - #entries))
    for _, entry in ipairs(step) do
      entries[#entries + 1] = {tonumber(string.match(entry[1], '^%d+')), entry[2][2]}
      bytes = bytes + #entry[2][2]
      from = '(' .. entry[1]
    end
  until #step < STEP or #entries >= most or bytes >= PAGE_BYTES
end
return {
  redis.call('GET', KEYS[1]) or '', redis.call('HEXISTS', KEYS[2], ARGV[1]), tonumber(meta[1] or 0), tonumber(meta[2] or 0),
  meta[3] or '', meta[4] or '', entries,
}
