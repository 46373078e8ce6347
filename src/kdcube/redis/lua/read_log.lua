-- One page of a turn's log after an offset, with what a reader must know to go on.
-- KEYS: 1 epoch, 2 turns, 3 log, 4 log meta
-- ARGV: 1 turn, 2 after this offset, 3 entries at most
-- Returns: {epoch or '', known 0|1 (the turn is in the working state), incarnation, tail, status or '', head,
--           list of {offset of the last event, lines}}
local meta = redis.call('HMGET', KEYS[4], 'i', 't', 'x', 'h')
local entries = {}
if meta[1] then
  local after = string.format('%.0f', tonumber(ARGV[2]) + 1)
  for _, entry in ipairs(redis.call('XRANGE', KEYS[3], after .. '-0', '+', 'COUNT', ARGV[3])) do
    entries[#entries + 1] = {tonumber(string.match(entry[1], '^%d+')), entry[2][2]}
  end
end
return {
  redis.call('GET', KEYS[1]) or '', redis.call('HEXISTS', KEYS[2], ARGV[1]), tonumber(meta[1] or 0), tonumber(meta[2] or 0),
  meta[3] or '', meta[4] or '', entries,
}
