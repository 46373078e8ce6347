-- The working state of turns: its keys (KEYS[1..14] are Keys.state()), its records and how they are read and written.
--
-- A record (hash `turns`, msgpack) has: u user, c class, k conversation, b bundle, v envelope version, o order,
-- at accepted (ms), rt started (ms), h content hash, n admission nonce, t the client's turn id, s state, m member in its
-- waiting set, i the turn that it asked to cancel, cl claim, w worker, x 1 when cancelled, of the turn that a steer
-- steers, seen 1 when a worker has the steer.
-- States: q queued, p parked behind its conversation, h held by the cap of its user, c claimed, r running,
-- s a steer (parked behind the turn that it steers, with a rank of its own), e ended but its host has not exited yet.
--
-- A turn first waits for its conversation (parked), then for its user's cap (held), then competes (queue).
-- A claim is current if and only if `claims` names its turn: c and r have one, e has none any more.

local EPOCH, TURNS, ENVELOPES, QUEUE, PARKED, HELD, USERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local CONVERSATIONS, LEASES, CLAIMS, SCHEDULE = KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local DOORBELL, BEATS, SLOTS = KEYS[12], KEYS[13], KEYS[14]
local SEP, AFTER_SEP = '\31', ' '
local DOORBELL_CAP = 64
local FIRST, IN_ORDER, STEER = '0', '1', '2' -- ranks in `parked`

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- For members that sort by a number. (As an argument of redis.call a number needs no care, it is written in full.)
local function sortable(n) return string.format('%015.0f', n) end

local function load(turn)
  local packed = redis.call('HGET', TURNS, turn)
  return packed and cmsgpack.unpack(packed)
end

local function save(turn, rec) redis.call('HSET', TURNS, turn, cmsgpack.pack(rec)) end

-- Says that turns wait, if any do. Every script that may have put one into the queue ends with it, except an admission:
-- its turn can start only when PostgreSQL has it, so ingress rings then.
local function ring()
  if redis.call('ZCARD', QUEUE) > 0 and redis.call('LLEN', DOORBELL) < DOORBELL_CAP then
    redis.call('RPUSH', DOORBELL, '1')
  end
end

local function turn_of(member) return string.match(member, '.*' .. SEP .. '(.*)') end

local function check_epoch(given)
  if redis.call('GET', EPOCH) ~= given then return redis.error_reply('EPOCH the working state is of another epoch') end
end
