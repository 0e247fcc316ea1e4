-- Decides and charges the keys of many requests, one request after the other,
-- each all or nothing. What several of them charge is read and written once.
--
-- KEYS: what is charged, each key once.
-- ARGV[1]: the time in microseconds, or '' for the server's own clock.
-- ARGV[2]: per request its number of charges (byte), and per charge, each of
-- another key, the algorithm's letter, flags (1 look, 2 shadow, 4 refuse whatever
-- the state, 8 refund, 16 charge though refused), its key's place in KEYS (two
-- bytes, the lower first), the length of its numbers (byte), and these as
-- little-endian doubles.
-- ARGV[3]: if there, all requests as one, which is tried first; see merge.go.
--
-- Returns the time as a double, then per request a byte (1 admitted, 0 refused,
-- 2 a key of another type, 3 the clock is in none of a calendar's periods) and per
-- charge a byte (1 allowed) and what the key holds after the request, with its
-- length before it (byte). If all requests were admitted as one it returns that one:
-- after the time a byte 4, and per charge what its key held before.
--
-- This is most of what a call costs the server, which does nothing else meanwhile:
-- it makes few tables and strings, looks little up, and takes for granted that
-- requests are admitted, which it undoes where they aren't.
local byte, char, call = string.byte, string.char, redis.call
local KEYS = KEYS

-- What the keys held, and their lengths then; what they hold now, when those that
-- changed expire (0 for when they do already), and which are of another type (nil
-- for none).
local held, values, expiries, foreign = {}, {}, {}, nil

-- More than a few thousand are too many for one call from Lua.
local MANY = 1000

for first = 1, #KEYS, MANY do
  local last, missing, none = math.min(first + MANY - 1, #KEYS), {}, 0
  local read = call('MGET', unpack(KEYS, first, last))
  for i = 1, last - first + 1 do
    local value = read[i]
    if not value then
      value, none = '', none + 1
      missing[none] = KEYS[first + i - 1]
    end
    -- What is longer than any of ours, and than a byte can say, counts as nothing.
    held[first + i - 1], values[first + i - 1] = #value, #value > 255 and '' or value
  end
  -- MGET takes a key of another type for one that isn't there.
  if none > 0 and call('EXISTS', unpack(missing)) > 0 then
    foreign = foreign or {}
    for i = first, last do
      local type = held[i] == 0 and call('TYPE', KEYS[i]).ok
      foreign[i] = type and type ~= 'string' and type ~= 'none'
    end
  end
end

-- How a charge that is allowed begins in the answer, by the length of what follows.
local yes = {}

-- What the charges of one request found and left; reused by each request.
local places, before, expiry, allowed, stays = {}, {}, {}, {}, {}

-- decide goes through requests, or through the one that is all of them, of which it
-- returns false if it isn't admitted.
local function decide(arguments, whole)
  local values, expiries, reply, parts = values, expiries, {packNumbers('<d', now)}, 1
  local position, size = 1, #arguments
  while position <= size do
    local count = byte(arguments, position)
    local stopped, wrong, head = false, nil, parts + 1
    position, parts = position + 1, head
    for i = 1, count do
      local letter, flags, low, high, length = byte(arguments, position, position + 4)
      local place, at = low + 256 * high, position + 5
      local value, passes, leaves, expires = values[place], false, nil, nil
      position = at + length
      if foreign and foreign[place] then
        wrong = wrong or '\2'
      elseif flags == 0 then
        passes, leaves, expires = (algorithms[letter] or others(algorithms, letter))(value, arguments, at)
      elseif flags % 16 >= 8 then
        passes = true
        if length > 0 then leaves = (refunds[letter] or others(refunds, letter))(value, arguments, at) end
      elseif flags % 8 < 4 then
        passes, leaves, expires = (algorithms[letter] or others(algorithms, letter))(value, arguments, at, flags >= 16)
      end
      if not passes then
        if passes == nil then wrong = wrong or '\3' end
        if flags % 4 < 2 then stopped = true end
      end
      places[i], before[i], expiry[i], allowed[i], stays[i] = place, value, expiries[place], passes, flags >= 16
      if leaves and flags % 2 == 0 then
        values[place] = leaves
        expiries[place] = expires or expiries[place] or 0
        if not whole then value = leaves end
      end
      local bytes = #value
      local begin = yes[bytes]
      if not begin then
        begin = char(1, bytes)
        yes[bytes] = begin
      end
      if not passes then begin = char(0, bytes) end
      reply[parts + 1], reply[parts + 2] = begin, value
      parts = parts + 2
    end
    reply[head] = whole and '\4' or '\1'
    if wrong or stopped then
      reply[head] = wrong or '\0'
      for i = 1, count do
        local place = places[i]
        if wrong or not stays[i] then values[place], expiries[place] = before[i], expiry[i] end
        local value = values[place]
        reply[head + 2 * i - 1], reply[head + 2 * i] = char(allowed[i] and 1 or 0, #value), value
      end
    end
  end
  return (not whole or reply[2] == '\4') and reply
end

local reply = ARGV[3] and decide(ARGV[3], true) or decide(ARGV[2])

for i = 1, #KEYS do
  local at, value = expiries[i], values[i]
  if at and at > 0 then
    local ttl = math.max(1, math.ceil((at - now) / 1000)) + grace
    call('SET', KEYS[i], value, 'PX', string.format('%.0f', ttl))
  elseif at and #value == held[i] then
    call('SETRANGE', KEYS[i], '0', value) -- half the work of SET, which keeps the expiry, too
  elseif at then
    call('SET', KEYS[i], value, 'KEEPTTL')
  end
end
return table.concat(reply)
