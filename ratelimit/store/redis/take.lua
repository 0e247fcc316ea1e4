-- Decides and charges the keys of many requests, one request after the other,
-- each all or nothing. What several of them charge is read and written once.
--
-- KEYS: one per charge.
-- ARGV[1]: the time in microseconds, or '' for the server's own clock.
-- ARGV[2]: per request its number of charges (byte), and per charge the
-- algorithm's letter, flags (1 look, 2 shadow, 4 refuse whatever the state, 8
-- refund, 16 charge though refused), the length of its numbers (byte), and these as
-- little-endian doubles.
--
-- Returns the time as a double, then per request a byte (1 admitted, 0 refused,
-- 2 a key of another type, 3 the clock is in none of a calendar's periods) and per
-- charge a byte (1 allowed) and what the key holds after the request, with its
-- length before it (byte).
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
local keys, allowed, after, expiry, forced = {}, {}, {}, {}, {}

-- decide fills these for the charge i that is described at position at, and
-- returns whether it stops the request, the position of the next, and what is
-- wrong.
local function decide(i, key, arguments, at)
  local letter, flags, length = unpackNumbers('<c1BB', arguments, at)
  local value = load(key)
  local rest = flags % 16
  keys[i], allowed[i], after[i], expiry[i], forced[i] = key, false, nil, nil, flags >= 16
  local wrong
  if type(value) ~= 'string' then return true, at + 3 + length, '\2' end
  if rest >= 8 then
    allowed[i] = true
    if length > 0 then after[i] = refunds[letter](value, arguments, at + 3) end
  elseif rest < 4 then
    allowed[i], after[i], expiry[i] = algorithms[letter](value, arguments, at + 3, forced[i])
    if allowed[i] == nil then wrong = '\3' end
  end
  if flags % 2 == 1 then after[i] = nil end
  return not allowed[i] and math.floor(flags / 2) % 2 == 0, at + 3 + length, wrong
end

local arguments = ARGV[2]
local reply = {packNumbers('<d', now)}
local position, size, charge = 1, #arguments, 0
while position <= size do
  local count = string.byte(arguments, position)
  position = position + 1
  local stopped, wrong = false, nil
  for i = 1, count do
    charge = charge + 1
    local stops, next, problem = decide(i, KEYS[charge], arguments, position)
    stopped, position, wrong = stopped or stops, next, wrong or problem
  end
  reply[#reply + 1] = wrong or stopped and '\0' or '\1'
  for i = 1, count do
    local key = keys[i]
    if after[i] and not wrong and (forced[i] or not stopped) then
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
