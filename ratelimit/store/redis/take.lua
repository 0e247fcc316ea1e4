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
--
-- This is most of what a call costs the server, which does nothing else meanwhile:
-- it makes few tables and strings, and looks little up.
local byte, char = string.byte, string.char
local arguments, KEYS = ARGV[2], KEYS
-- What the keys hold, which of them changed, when these expire, and which are of
-- another type (nil for none).
local values, changed, expiries, foreign = {}, {}, {}, nil

local function load(key)
  local value = redis.pcall('GET', key) or ''
  if type(value) ~= 'string' then
    foreign = foreign or {}
    foreign[key] = true
    value = ''
  end
  values[key] = value
  return value
end

-- How a charge's part of the answer begins, by the length of what follows.
local yes, no = {}, {}

-- What the charges of one request would leave; reused by each request.
local keys, allowed, after, expiry, forced = {}, {}, {}, {}, {}

local reply, parts = {packNumbers('<d', now)}, 1
local position, size, charge = 1, #arguments, 0
while position <= size do
  local count = byte(arguments, position)
  local stopped, wrong = false, nil
  position = position + 1
  for i = 1, count do
    charge = charge + 1
    local key = KEYS[charge]
    local letter, flags, length = byte(arguments, position, position + 2)
    local value, at = values[key] or load(key), position + 3
    local passes, leaves, expires = false, nil, nil
    position = at + length
    if foreign and foreign[key] then
      stopped, wrong = true, wrong or '\2'
    elseif flags % 16 >= 8 then
      passes = true
      if length > 0 then leaves = (refunds[letter] or others(refunds, letter))(value, arguments, at) end
    elseif flags % 8 < 4 then
      passes, leaves, expires = (algorithms[letter] or others(algorithms, letter))(value, arguments, at, flags >= 16)
      if passes == nil then wrong = wrong or '\3' end
    end
    if not passes and flags % 4 < 2 then stopped = true end
    if flags % 2 == 1 then leaves = nil end
    keys[i], allowed[i], after[i], expiry[i], forced[i] = key, passes, leaves, expires, flags >= 16
  end
  reply[parts + 1] = wrong or stopped and '\0' or '\1'
  for i = 1, count do
    local key, value = keys[i], after[i]
    if value and not wrong and (forced[i] or not stopped) then
      values[key] = value
      expiries[key] = expiry[i] or expiries[key]
      changed[key] = true
    else
      value = values[key]
    end
    local length = #value
    if allowed[i] then
      local begin = yes[length]
      if not begin then
        begin = char(1, length)
        yes[length] = begin
      end
      reply[parts + 2 * i] = begin
    else
      no[length] = no[length] or char(0, length)
      reply[parts + 2 * i] = no[length]
    end
    reply[parts + 2 * i + 1] = value
  end
  parts = parts + 2 * count + 1
end

local call = redis.call
for key in pairs(changed) do
  local at = expiries[key]
  if at then
    local ttl = math.max(1, math.ceil((at - now) / 1000)) + grace
    call('SET', key, values[key], 'PX', string.format('%.0f', ttl))
  else
    call('SET', key, values[key], 'KEEPTTL')
  end
end
return table.concat(reply)
