-- The algorithms. Each decides one charge as ratelimit.Decide does: whole
-- microseconds, with a rest in 1/scale microseconds for GCRA, so that every
-- number is an integer below 2^53.
--
-- algorithms[letter](value, arguments, at) gets what the key holds ('' for
-- nothing) and where its numbers begin in the packed arguments. It returns false
-- if the charge is refused, otherwise true, what the key shall hold, and when
-- that may expire, in microseconds; nil if the expiry that the key has will do.
-- A value of another form than the algorithm's own counts as nothing.
--
-- refunds[letter](value, arguments, at) takes the same and returns what the key
-- shall hold after the charge is taken back, or nil if there is nothing to take
-- back. It never leaves less charged than if the charge had not been.
--
-- now is the instant of the call; see clock.lua.
local unpackNumbers, packNumbers = struct.unpack, struct.pack
local algorithms, refunds = {}, {}

-- Each form begins with a byte of its own, so that what an older version or
-- another program wrote isn't taken for it.
local FIXED, FIXED_BYTES = '<Bdd', 17
local GCRA, GCRA_BYTES = '<Bdddd', 33

local function readFixed(value)
  if #value == FIXED_BYTES then
    local form, at, count = unpackNumbers(FIXED, value)
    if form == 1 then return at, count end
  end
  return -1, 0
end

-- Numbers: capacity, cost, window.
algorithms.f = function(value, arguments, at)
  local capacity, cost, window = unpackNumbers('<ddd', arguments, at)
  local start = now - math.fmod(now, window)
  local from, used = readFixed(value)
  local expiry
  if from >= start and from <= start + window then
    start = from
  else
    used = 0
    expiry = start + window
  end
  if used + cost > capacity then return false end
  return true, packNumbers(FIXED, 1, start, used + cost), expiry
end

refunds.f = function(value, arguments, at)
  local _, cost, window = unpackNumbers('<ddd', arguments, at)
  local from, used = readFixed(value)
  if from > now or from + window <= now or used < cost then return nil end
  return packNumbers(FIXED, 1, from, used - cost)
end

local function readGCRA(value)
  if #value == GCRA_BYTES then
    local form, at, rest, scale, granted = unpackNumbers(GCRA, value)
    if form == 2 then return at, rest, scale, granted end
  end
  return 0, 0, 0, 0
end

-- Numbers: tolerance whole, tolerance rest, cost whole, cost rest, scale, window.
algorithms.g = function(value, arguments, at)
  local fullWhole, fullRest, costWhole, costRest, rate, window = unpackNumbers('<dddddd', arguments, at)
  local arrival, rest, scale, granted = readGCRA(value)
  fullWhole = fullWhole + now
  local longest = fullWhole + window
  if scale ~= rate and scale ~= 0 then
    if rest > 0 then arrival = arrival + 1 end
    rest = 0
    local backlog = math.max(0, math.ceil((arrival - now) * scale / rate))
    arrival = now + backlog
    if backlog > longest - now then arrival = now end
  end
  if arrival < now or arrival > longest then
    arrival = now
    rest = 0
  end
  arrival = arrival + costWhole
  rest = rest + costRest
  if rest >= rate then
    arrival = arrival + 1
    rest = rest - rate
  end
  if arrival > fullWhole or (arrival == fullWhole and rest > fullRest) then return false end
  -- The expiry moves with every charge, so one for longer is asked for, and
  -- another only when that one has become too short.
  local expiry
  if arrival >= granted then
    granted = arrival + 1 + fullWhole - now
    expiry = granted
  end
  return true, packNumbers(GCRA, 2, arrival, rest, rate, granted), expiry
end

refunds.g = function(value, arguments, at)
  local _, _, costWhole, costRest, rate = unpackNumbers('<ddddd', arguments, at)
  local arrival, rest, scale, granted = readGCRA(value)
  -- Under other numbers the charge stays: it is no longer known what it was.
  if scale ~= rate or arrival <= now then return nil end
  arrival = arrival - costWhole
  rest = rest - costRest
  if rest < 0 then
    arrival = arrival - 1
    rest = rest + rate
  end
  return packNumbers(GCRA, 2, arrival, rest, rate, granted)
end
