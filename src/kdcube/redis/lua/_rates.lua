-- Rates: how much of its limits a user, and an address, has used. Fixed windows that begin with their first message.
--
-- A hash for each: b and bt, the count and the beginning (ms) of the burst window; h and ht, those of the hour.

local HOUR_MS = 3600000

local function windows_of(key, now, window)
  local of = redis.call('HMGET', key, 'b', 'bt', 'h', 'ht')
  local b, bt, h, ht = tonumber(of[1] or 0), tonumber(of[2] or 0), tonumber(of[3] or 0), tonumber(of[4] or 0)
  if now >= bt + window or now < bt then b, bt = 0, now end -- over, or the clock was set back
  if now >= ht + HOUR_MS or now < ht then h, ht = 0, now end
  return {key = key, b = b, bt = bt, h = h, ht = ht}
end

-- The rates of `user_key`, whose limits are `burst` in `window` ms and `hourly` (-1: none), and of `address_key`, which
-- has `share` times those limits (0: it does not count).
local function rates_of(user_key, address_key, burst, window, hourly, share)
  local rates = {window = window, of = {}}
  if burst < 0 and hourly < 0 then return rates end
  local now = redis.call('TIME')
  now = now[1] * 1000 + math.floor(now[2] / 1000)
  rates.now = now
  for place, key in ipairs(share > 0 and {user_key, address_key} or {user_key}) do
    local of = windows_of(key, now, window)
    local times = place == 1 and 1 or share
    of.burst = burst < 0 and math.huge or burst * times
    of.hourly = hourly < 0 and math.huge or hourly * times
    rates.of[place] = of
  end
  return rates
end

-- The reason for which the next message is refused, if it is, and after how many ms it would not be.
local function over_rate(rates)
  local reason, wait = nil, 0
  for _, of in ipairs(rates.of) do
    if of.b >= of.burst then
      reason = reason or 'rate_limit_burst'
      wait = math.max(wait, of.bt + rates.window - rates.now)
    end
    if of.h >= of.hourly then
      reason = 'rate_limit_hourly'
      wait = math.max(wait, of.ht + HOUR_MS - rates.now)
    end
  end
  return reason, wait
end

local function charge(rates)
  for _, of in ipairs(rates.of) do
    of.b, of.h = of.b + 1, of.h + 1
    redis.call('HSET', of.key, 'b', of.b, 'bt', of.bt, 'h', of.h, 'ht', of.ht)
    redis.call('PEXPIRE', of.key, math.max(rates.window, HOUR_MS))
  end
end

-- {left of the burst, ms until that is more, left of the hour, ms until that is more}: of the user or the address,
-- whoever has less. -1 where there is no limit.
local function what_is_left(rates)
  local burst, burst_ms, hourly, hourly_ms = math.huge, 0, math.huge, 0
  for _, of in ipairs(rates.of) do
    local b, h = math.max(of.burst - of.b, 0), math.max(of.hourly - of.h, 0)
    if b < burst then burst, burst_ms = b, of.bt + rates.window - rates.now end
    if h < hourly then hourly, hourly_ms = h, of.ht + HOUR_MS - rates.now end
  end
  if burst == math.huge then burst = -1 end
  if hourly == math.huge then hourly = -1 end
  return {burst, burst_ms, hourly, hourly_ms}
end
