-- A turn's log: stream `log` (an entry's id is the offset of its last event, field d its lines) and hash `meta`:
-- i incarnation, t tail, s and c the last sequence number and its claim, x 'closed' after the terminal event,
-- b bytes, h head (JSON members that stay the same through an attempt).
-- A change is published as "epoch incarnation previous offset status head_length\n" head lines; large ones without lines.
local PUBLISH_MAX_BYTES = 65536
-- Longer than any turn runs: a log of which nobody knows any more (a replica that lags brought it back) goes away.
local OPEN_TTL_MS = 172800000

local function log_append(log, channel, epoch, incarnation, tail, count, lines, head, status)
  local offset = tail + count
  local carried = (#lines > PUBLISH_MAX_BYTES) and '' or lines
  redis.call('XADD', log, string.format('%.0f-0', offset), 'd', lines)
  redis.call(
    'PUBLISH', channel,
    string.format('%s %.0f %.0f %.0f %s %d\n', epoch, incarnation, tail, offset, status, #head) .. head .. carried
  )
  return offset
end
