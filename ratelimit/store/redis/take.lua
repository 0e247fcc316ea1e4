-- Decides and charges all keys of one request, all or nothing.
-- The arithmetic is that of ratelimit.Decide: whole microseconds, with a rest
-- in 1/scale microseconds for GCRA, so every number is an integer below 2^53.
--
-- KEYS: one per charge.
-- ARGV[1]: the time in microseconds, or "" for the server's own clock.
-- Then eight per charge: algorithm ("f" or "g"), flags (1 look, 2 shadow,
-- 4 refuse whatever the state), and six numbers:
--   fixed window: capacity, cost, window
--   GCRA:         tolerance whole, tolerance rest, cost whole, cost rest, scale, window
-- Returns {now, admitted, then allowed, at, count, scale per key}.
local now = tonumber(ARGV[1])
-- Keys expire by the server's clock, so another clock needs them for longer.
local grace = 3600000
if not now then
  grace = 0
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function load(key)
  local value = redis.call('GET', key)
  if not value then return 0, 0, 0 end
  local at, count, scale = string.match(value, '^(-?%d+):(%d+):(%d+)$')
  if not at then return 0, 0, 0 end
  return tonumber(at), tonumber(count), tonumber(scale)
end

-- Both return allowed, the new at, count and scale, and the expiry.
local function fixed(at, count, capacity, cost, window)
  local start = now - math.fmod(now, window)
  local used = 0
  if at >= start and at <= start + window then
    start = at
    used = count
  end
  if used + cost > capacity then return false end
  return true, start, used + cost, 0, start + window
end

local function gcra(at, count, scale, fullWhole, fullRest, costWhole, costRest, rate, window)
  fullWhole = fullWhole + now
  local longest = fullWhole + window
  if scale ~= rate and scale ~= 0 then
    if count > 0 then at = at + 1 end
    count = 0
    local backlog = math.max(0, math.ceil((at - now) * scale / rate))
    at = now + backlog
    if backlog > longest - now then at = now end
  end
  if at < now or at > longest then
    at = now
    count = 0
  end
  at = at + costWhole
  count = count + costRest
  if count >= rate then
    at = at + 1
    count = count - rate
  end
  if at > fullWhole or (at == fullWhole and count > fullRest) then return false end
  local expiry = at
  if count > 0 then expiry = at + 1 end
  return true, at, count, rate, expiry
end

local reply = {now, 1}
local writes = {}
for i, key in ipairs(KEYS) do
  local base = 1 + (i - 1) * 8
  local flags = tonumber(ARGV[base + 2])
  local look = flags % 2 == 1
  local shadow = math.floor(flags / 2) % 2 == 1
  local a, b, c = tonumber(ARGV[base + 3]), tonumber(ARGV[base + 4]), tonumber(ARGV[base + 5])
  local at, count, scale = load(key)
  local allowed, newAt, newCount, newScale, expiry = false
  if flags < 4 then
    if ARGV[base + 1] == 'g' then
      allowed, newAt, newCount, newScale, expiry = gcra(at, count, scale, a, b, c, tonumber(ARGV[base + 6]), tonumber(ARGV[base + 7]), tonumber(ARGV[base + 8]))
    else
      allowed, newAt, newCount, newScale, expiry = fixed(at, count, a, b, c)
    end
  end
  local n = #reply
  reply[n + 1] = allowed and 1 or 0
  reply[n + 2], reply[n + 3], reply[n + 4] = at, count, scale
  if allowed and not look then
    writes[#writes + 1] = {key, newAt, newCount, newScale, expiry, n}
  elseif not allowed and not shadow then
    reply[2] = 0
  end
end

if reply[2] == 1 then
  for _, write in ipairs(writes) do
    local key, at, count, scale, expiry, n = unpack(write)
    local ttl = math.max(1, math.ceil((expiry - now) / 1000)) + grace
    redis.call('SET', key, string.format('%.0f:%.0f:%.0f', at, count, scale), 'PX', string.format('%.0f', ttl))
    reply[n + 2], reply[n + 3], reply[n + 4] = at, count, scale
  end
end
return reply
