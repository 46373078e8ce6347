-- Appends to a user's feed. `live` counts the offset: the log assigns it, never a clock. FEED_NAME names a feed's life.
local FEED_MAX_ENTRIES = 2000
local FEED_TTL_MS = 86400000

local function feed_append(feed, live, channel, name, payload)
  local offset = redis.call('HINCRBY', live, '#t', 1)
  if offset == 1 then redis.call('HSET', live, '#g', name) else name = redis.call('HGET', live, '#g') end
  redis.call('XADD', feed, 'MAXLEN', '~', FEED_MAX_ENTRIES, offset .. '-0', 'd', payload)
  redis.call('PUBLISH', channel, name .. ' ' .. offset .. '\n' .. payload)
  redis.call('PEXPIRE', feed, FEED_TTL_MS)
  redis.call('PEXPIRE', live, FEED_TTL_MS)
  return offset
end
