-- Claims turns for a worker: class by weight, bundle and user by finish tag; each under a fence and a lease.
-- KEYS: 1-14 state, 15 stops
-- ARGV: 1 epoch, 2 worker, 3 revision, 4 lease ms, 5 newest envelope version that the worker reads, 6 heartbeat ttl ms,
--       7 number of classes, 8 number of bundles, 9 number of claim ids, then per class: name, weight, share of all slots;
--       per bundle: id, room; then the claim ids (random, chosen by the worker: a repeat returns what they claimed)
-- Returns: list of {turn, claim, envelope, order, accepted ms} | 'stopped'
-- include: turns
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local worker, lease_ms, newest = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local n_classes, n_bundles, n_claims = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local at = 10
local classes, bundles, room, claim_ids = {}, {}, {}, {}
local all_slots = live_slots(tonumber(ARGV[6]))
for _ = 1, n_classes do
  local name, weight, share = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local running = tonumber(redis.call('HGET', SCHEDULE, 'running' .. SEP .. name) or 0)
  local cap = math.max(1, math.ceil(share * all_slots))
  classes[#classes + 1] = {name = name, weight = weight, room = cap - running}
  at = at + 3
end
for _ = 1, n_bundles do
  bundles[#bundles + 1] = ARGV[at]
  room[ARGV[at]] = tonumber(ARGV[at + 1])
  at = at + 2
end
for i = 1, n_claims do claim_ids[i] = ARGV[at + i - 1] end

local claimed = {}
for _, claim in ipairs(claim_ids) do
  local turn = redis.call('HGET', CLAIMS, claim)
  local rec = turn and load(turn)
  if rec then claimed[#claimed + 1] = {turn, claim, redis.call('HGET', ENVELOPES, turn), rec.o, rec.at} end
end
if #claimed > 0 then return claimed end
if redis.call('SISMEMBER', KEYS[15], ARGV[3]) == 1 then return 'stopped' end

local TOO_NEW_MAX = 16 -- envelopes of a newer release that a claim looks past, per class and bundle
local function head(class, bundle)
  local prefix = class .. SEP .. bundle
  for skip = 0, TOO_NEW_MAX do
    local member = redis.call('ZRANGEBYLEX', QUEUE, '[' .. prefix .. SEP, '(' .. prefix .. AFTER_SEP, 'LIMIT', skip, 1)[1]
    if not member then return nil end
    local turn = turn_of(member)
    local rec = load(turn)
    if rec.v <= newest then
      return {member = member, turn = turn, rec = rec, tag = string.sub(member, #prefix + 2)}
    end
  end
end

local heads = {}
for _, class in ipairs(classes) do
  heads[class.name] = {}
  for _, bundle in ipairs(bundles) do heads[class.name][bundle] = head(class.name, bundle) end
end
local now = now_ms()
local clock = tonumber(redis.call('HGET', SCHEDULE, 'pass') or 0)

for _, claim in ipairs(claim_ids) do
  local chosen, chosen_head, chosen_pass
  for _, class in ipairs(classes) do
    if class.room > 0 then
      local best
      for _, bundle in ipairs(bundles) do
        local candidate = room[bundle] > 0 and heads[class.name][bundle]
        if candidate and (not best or candidate.tag < best.tag) then best = candidate end
      end
      if best then
        -- A class that was idle starts at the clock: it earns no credit for its absence.
        class.pass = class.pass or tonumber(redis.call('HGET', SCHEDULE, 'pass' .. SEP .. class.name) or 0)
        local pass = math.max(class.pass, clock)
        if not chosen or pass < chosen_pass then chosen, chosen_head, chosen_pass = class, best, pass end
      end
    end
  end
  if not chosen then break end
  clock = chosen_pass
  chosen.pass = chosen_pass + 1 / chosen.weight
  chosen.room = chosen.room - 1
  redis.call('HSET', SCHEDULE, 'pass', string.format('%.6f', clock), 'pass' .. SEP .. chosen.name, string.format('%.6f', chosen.pass))

  local turn, rec = chosen_head.turn, chosen_head.rec
  redis.call('ZREM', QUEUE, chosen_head.member)
  local tag = tonumber(string.match(chosen_head.tag, '^%d+'))
  local time_field, tag_field = 'time' .. SEP .. rec.c, 'tag' .. SEP .. rec.c .. SEP .. rec.u
  local time = math.max(tag, tonumber(redis.call('HGET', SCHEDULE, time_field) or 0))
  redis.call('HSET', SCHEDULE, time_field, digits(time))
  if tonumber(redis.call('HGET', SCHEDULE, tag_field) or 0) <= time then redis.call('HDEL', SCHEDULE, tag_field) end
  rec.s, rec.cl, rec.w = 'c', claim, worker
  save(turn, rec)
  redis.call('HSET', CLAIMS, claim, turn)
  redis.call('ZADD', LEASES, digits(now + lease_ms), turn)
  redis.call('HINCRBY', SCHEDULE, 'running' .. SEP .. rec.c, 1)
  claimed[#claimed + 1] = {turn, claim, redis.call('HGET', ENVELOPES, turn), rec.o, rec.at}
  room[rec.b] = room[rec.b] - 1
  heads[rec.c][rec.b] = head(rec.c, rec.b)
end
if #claimed > 0 and redis.call('ZCARD', QUEUE) > 0 then ring() end
return claimed
