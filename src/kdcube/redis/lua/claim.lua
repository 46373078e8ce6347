-- Claims turns for a worker: class by weight, bundle and user by finish tag; each under a fence and a lease.
-- KEYS: 1-14 state, 15 stops
-- ARGV: 1 epoch, 2 worker, 3 revision, 4 lease ms, 5 newest envelope version that the worker reads, 6 heartbeat ttl ms,
--       7 number of classes, 8 number of bundles, 9 number of claim ids, then per class: name, weight, share of all slots;
--       per bundle: id, room; then the claim ids (random, chosen by the worker: a repeat returns what they claimed,
--       under leases that begin again)
-- Returns: list of {turn, claim, envelope, order, accepted ms} | 'stopped'
-- include: state
-- include: estimates
local TOO_NEW_MAX = 16 -- envelopes of a newer release that a claim looks past, per class and bundle
local CLAIMS_MAX = 1000 -- in one call

local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local worker, lease_ms, newest = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local n_classes, n_bundles, n_claims = tonumber(ARGV[7]), tonumber(ARGV[8]), math.min(tonumber(ARGV[9]), CLAIMS_MAX)
local bundles_at = 10 + 3 * n_classes
local claims_at = bundles_at + 2 * n_bundles
local deadline = now_ms() + lease_ms
if n_claims == 0 then return {} end

local claimed, repeated = {}, false
for i, turn in ipairs(redis.call('HMGET', CLAIMS, unpack(ARGV, claims_at, claims_at + n_claims - 1))) do
  local rec = turn and load(turn)
  repeated = repeated or rec -- also one that comes late, when what it claimed has started: a fence is given once
  if rec and rec.s == 'c' then
    redis.call('ZADD', LEASES, deadline, turn)
    claimed[#claimed + 1] = {turn, rec.cl, redis.call('HGET', ENVELOPES, turn), rec.o, rec.at}
  end
end
if repeated then return claimed end
if redis.call('SISMEMBER', KEYS[15], ARGV[3]) == 1 then return 'stopped' end
if redis.call('ZCARD', QUEUE) == 0 then return {} end

local room = {}
for at = bundles_at, claims_at - 1, 2 do room[ARGV[at]] = tonumber(ARGV[at + 1]) end

-- Classes, with their virtual times (passes). A share below 1 caps what a class may run of all live slots.
local fields, classes, slots = {'pass'}, {}, nil
for at = 10, bundles_at - 1, 3 do
  for _, field in ipairs({'pass', 'time', 'running'}) do fields[#fields + 1] = field .. SEP .. ARGV[at] end
end
local times = redis.call('HMGET', SCHEDULE, unpack(fields))
local clock = tonumber(times[1] or 0)
for i = 1, n_classes do
  local at = 7 + 3 * i
  local class = {
    name = ARGV[at], weight = tonumber(ARGV[at + 1]), pass = tonumber(times[3 * i - 1] or 0),
    time = tonumber(times[3 * i] or 0), running = tonumber(times[3 * i + 1] or 0), room = math.huge, taken = 0,
  }
  local share = tonumber(ARGV[at + 2])
  if share < 1 then
    slots = slots or live_slots(tonumber(ARGV[6]))
    class.room = math.max(1, math.ceil(share * slots)) - class.running
  end
  classes[i] = class
end

-- A lane is what waits of one class for one bundle; `member` is its next, `tag` what tells which lane's next is first.
local function step(lane)
  lane.member = redis.call('ZRANGEBYLEX', QUEUE, '(' .. lane.member, '(' .. lane.past, 'LIMIT', 0, 1)[1]
  lane.tag = lane.member and string.sub(lane.member, #lane.past + 1)
end

-- The lanes of a class for which there is room, found by jumping from one to the next: one look for each that is there.
local function lanes_of(class)
  local lanes, from, past = {}, '[' .. class.name .. SEP, '(' .. class.name .. AFTER_SEP
  while true do
    local member = redis.call('ZRANGEBYLEX', QUEUE, from, past, 'LIMIT', 0, 1)[1]
    if not member then return lanes end
    local bundle = string.match(member, SEP .. '([^' .. SEP .. ']*)', #class.name + 1)
    local name = class.name .. SEP .. bundle
    if room[bundle] then
      lanes[#lanes + 1] =
        {bundle = bundle, past = name .. AFTER_SEP, member = member, tag = string.sub(member, #name + 2), too_new = 0}
    end
    from = '[' .. name .. AFTER_SEP
  end
end

-- The lane of a class that is to be served next.
local function best_of(class)
  class.lanes = class.lanes or lanes_of(class)
  local best
  for _, lane in ipairs(class.lanes) do
    if lane.member and room[lane.bundle] > 0 and (not best or lane.tag < best.tag) then best = lane end
  end
  return best
end

-- The class with the lowest pass that has a turn, and its lane. A class that was idle starts at the clock: it earns no
-- credit for its absence.
local function choose()
  while true do
    local class
    for _, other in ipairs(classes) do
      other.start = math.max(other.pass, clock)
      if other.room > 0 and not other.empty and (not class or other.start < class.start) then class = other end
    end
    if not class then return nil end
    local lane = best_of(class)
    if lane then return class, lane end
    class.empty = true
  end
end

local members, records, fences, leases, turns = {}, {}, {}, {}, {}
while #claimed < n_claims do
  local class, lane = choose()
  if not class then break end
  local turn, tag = turn_of(lane.member), tonumber(string.match(lane.tag, '^%d+'))
  local rec = load(turn)
  if rec.v > newest then
    lane.too_new = lane.too_new + 1
    if lane.too_new > TOO_NEW_MAX then lane.member = nil else step(lane) end
  else
    local claim = ARGV[claims_at + #claimed]
    clock = class.start
    class.pass = clock + 1 / class.weight
    class.time = math.max(class.time, tag)
    class.room, class.taken = class.room - 1, class.taken + 1
    room[lane.bundle] = room[lane.bundle] - 1
    rec.s, rec.cl, rec.w = 'c', claim, worker
    local n, n2 = #turns + 1, 2 * #turns + 1
    turns[n], members[n] = turn, lane.member
    records[n2], records[n2 + 1] = turn, cmsgpack.pack(rec)
    fences[n2], fences[n2 + 1] = claim, turn
    leases[n2], leases[n2 + 1] = deadline, turn
    claimed[n] = {turn, claim, '', rec.o, rec.at}
    if n < n_claims then step(lane) end
  end
end
if #claimed == 0 then return claimed end

redis.call('HSET', TURNS, unpack(records)) -- first: it is what a server whose memory is full refuses
redis.call('ZREM', QUEUE, unpack(members))
redis.call('HSET', CLAIMS, unpack(fences))
redis.call('ZADD', LEASES, unpack(leases))
local changed = {'pass', clock}
for _, class in ipairs(classes) do
  if class.taken > 0 then
    for field, value in pairs({pass = class.pass, time = class.time, running = class.running + class.taken}) do
      changed[#changed + 1] = field .. SEP .. class.name
      changed[#changed + 1] = value
    end
  end
end
redis.call('HSET', SCHEDULE, unpack(changed))
for i, envelope in ipairs(redis.call('HMGET', ENVELOPES, unpack(turns))) do claimed[i][3] = envelope end
ring()
return claimed
