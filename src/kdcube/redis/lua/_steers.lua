-- Steers, for scripts that include `turns` and `feed` and tell the user of them. `to` = {feed key, live key, channel,
-- feed name} of the user.

-- The steers of a turn, in order: list of {steer, record}.
local function steers_of(turn, conversation)
  local prefix = conversation .. SEP .. STEER
  local found = {}
  for _, member in ipairs(redis.call('ZRANGEBYLEX', PARKED, '[' .. prefix .. SEP, '(' .. prefix .. AFTER_SEP)) do
    local steer = turn_of(member)
    local rec = load(steer)
    if rec.of == turn then found[#found + 1] = {steer, rec} end
  end
  return found
end

local function receipt(to, steer, rec, state)
  feed_append(to[1], to[2], to[3], to[4], cjson.encode({
    type = 'steer.receipt', ts = now_ms(), turn_id = steer, client_turn_id = rec.t, conversation_id = rec.k,
    steered_turn_id = rec.of, state = state,
  }))
end

-- What was not applied becomes a turn of its own, in its order.
local function bounce(to, steer, rec)
  redis.call('ZREM', PARKED, rec.m)
  receipt(to, steer, rec, 'bounced')
  rec.of, rec.seen = nil, nil
  park(steer, rec, IN_ORDER)
end

-- A steer that is settled, `applied` or `cancelled`, leaves; `done` is its key.
local function settle(to, steer, rec, state, done, done_ttl)
  redis.call('ZREM', PARKED, rec.m)
  redis.call('HDEL', TURNS, steer)
  redis.call('HDEL', ENVELOPES, steer)
  redis.call('HDEL', to[2], steer)
  redis.call('SET', done, cmsgpack.pack({h = rec.h, s = state, k = rec.k, o = rec.o, at = rec.at}), 'PX', done_ttl)
  receipt(to, steer, rec, state)
end
