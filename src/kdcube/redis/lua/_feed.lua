-- Appends to a user's feed and tells its channel. Hash `live` has the tail (#t), the name of the feed's life (#g) and
-- each live turn with the offset at which it was accepted. The feed assigns offsets, never a clock.
local FEED_MAX_ENTRIES = 2000
local FEED_TTL_MS = 86400000

-- `name` is taken when a feed begins. `turn`, if given, is live from this event on.
local function feed_append(feed, live, channel, name, payload, turn)
  local has = redis.call('HMGET', live, '#t', '#g')
  local offset = (has[1] or 0) + 1
  if has[2] then
    name = has[2]
  else
    redis.call('DEL', feed)
  end
  redis.call('XADD', feed, 'MAXLEN', '~', FEED_MAX_ENTRIES, string.format('%.0f-0', offset), 'd', payload)
  if turn then
    redis.call('HSET', live, '#t', offset, '#g', name, turn, offset)
  else
    redis.call('HSET', live, '#t', offset, '#g', name)
  end
  redis.call('PUBLISH', channel, string.format('%s %.0f\n', name, offset) .. payload)
  redis.call('PEXPIRE', feed, FEED_TTL_MS)
  redis.call('PEXPIRE', live, FEED_TTL_MS)
  return offset
end
