-- Where turns stand in the queue.
-- KEYS: 1-14 state
-- ARGV: 1 epoch, 2 heartbeat ttl ms, 3.. turns
-- Returns: list of {state or '', position, eta ms}
-- include: state
-- include: estimates
local wrong = check_epoch(ARGV[1])
if wrong then return wrong end
local slots = live_slots(tonumber(ARGV[2]))
local found = {}
for i = 3, #ARGV do
  local rec = load(ARGV[i])
  if rec then
    local position = position_of(rec)
    found[#found + 1] = {rec.s, position, eta_ms(position, slots)}
  else
    found[#found + 1] = {'', 0, 0}
  end
end
return found
