-- Decides and charges the keys of many requests, one request after the other,
-- each all or nothing. What several of them charge is read and written once.
--
-- KEYS: one per charge.
-- ARGV[1]: the time in microseconds, or '' for the server's own clock.
-- ARGV[2]: per request its number of charges (byte), and per charge the
-- algorithm's letter, flags (1 look, 2 shadow, 4 refuse whatever the state, 8
-- refund), the length of its numbers (byte), and these as little-endian doubles.
--
-- Returns the time as a double, then per request a byte (1 admitted, 0 refused,
-- 2 a key of another type) and per charge a byte (1 allowed) and what the key
-- holds after the request, with its length before it (byte).
local values, changed, expiries = {}, {}, {}

local function load(key)
  local value = values[key]
  if value == nil then
    value = redis.pcall('GET', key) or ''
    values[key] = value
  end
  return value
end

-- What the charges of one request would leave; reused by each request.
local keys, allowed, after, expiry = {}, {}, {}, {}

-- decide fills these for the charge i that is described at position at, and
-- returns whether it stops the request, the position of the next, and whether
-- the key can't be read.
local function decide(i, key, arguments, at)
  local letter, flags, length = unpackNumbers('<c1BB', arguments, at)
  local value = load(key)
  keys[i], allowed[i], after[i], expiry[i] = key, false, nil, nil
  if type(value) ~= 'string' then return true, at + 3 + length, true end
  if flags >= 8 then
    allowed[i], after[i] = true, refunds[letter](value, arguments, at + 3)
  elseif flags < 4 then
    allowed[i], after[i], expiry[i] = algorithms[letter](value, arguments, at + 3)
  end
  if flags % 2 == 1 then after[i] = nil end
  return not allowed[i] and math.floor(flags / 2) % 2 == 0, at + 3 + length, false
end

local arguments = ARGV[2]
local reply = {packNumbers('<d', now)}
local position, size, charge = 1, #arguments, 0
while position <= size do
  local count = string.byte(arguments, position)
  position = position + 1
  local stopped, broken = false, false
  for i = 1, count do
    charge = charge + 1
    local stops, next, unreadable = decide(i, KEYS[charge], arguments, position)
    stopped, position, broken = stopped or stops, next, broken or unreadable
  end
  reply[#reply + 1] = broken and '\2' or stopped and '\0' or '\1'
  for i = 1, count do
    local key = keys[i]
    if after[i] and not stopped then
      values[key] = after[i]
      expiries[key] = expiry[i] or expiries[key]
      changed[key] = true
    end
    local value = values[key]
    if type(value) ~= 'string' then value = '' end
    reply[#reply + 1] = packNumbers('<BBc0', allowed[i] and 1 or 0, #value, value)
  end
end

for key in pairs(changed) do
  local at = expiries[key]
  if at then
    local ttl = math.max(1, math.ceil((at - now) / 1000)) + grace
    redis.call('SET', key, values[key], 'PX', string.format('%.0f', ttl))
  else
    redis.call('SET', key, values[key], 'KEEPTTL')
  end
end
return table.concat(reply)
