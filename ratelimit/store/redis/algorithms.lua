-- The algorithms. Each decides one charge as ratelimit.Decide does: whole
-- microseconds, with a rest in 1/scale microseconds for GCRA, so that every
-- number is an integer below 2^53.
--
-- algorithms[letter](value, arguments, at, force) gets what the key holds ('' for
-- nothing), where its numbers begin in the packed arguments (Charge.Numbers), and
-- whether the charge is made though it be refused. It returns whether the charge is
-- allowed, what the key shall hold, if it is to change, and when that may expire, in
-- microseconds; nil if the expiry that the key has will do. A value of another form
-- than the algorithm's own counts as nothing.
--
-- refunds[letter](value, arguments, at) gives back a part of a charge as
-- ratelimit.Refund does. It returns what the key shall hold, or nil if there is
-- nothing to give back. The key's expiry stays.
--
-- letter is a byte: fixed windows (f) 102, GCRA (g) 103, calendars (c) 99 and
-- sliding windows (s) 115. others makes what calls seldom need.
--
-- now is the instant of the call; see clock.lua.
local unpackNumbers, packNumbers = struct.unpack, struct.pack
local algorithms, refunds = {}, {}

-- Each form begins with a byte of its own, so that what an older version or
-- another program wrote isn't taken for it.
local FIXED, FIXED_BYTES = '<Bdd', 17
local GCRA, GCRA_BYTES = '<Bddddd', 41
local LOG, MARK, MARK_BYTES, MAX_MARKS, MAX_COST = 3, 'dI4', 12, 17, 4294967295

local function countWindow(value, capacity, cost, start, finish, force)
  local used, expiry = cost, finish
  if #value == FIXED_BYTES then
    local form, from, count = unpackNumbers(FIXED, value)
    if form == 1 and from >= start and from <= finish then
      start, used, expiry = from, count + cost, nil
    end
  end
  local allowed = used <= capacity
  if not allowed and not force then return false end
  if used > 2^50 then used = 2^50 end
  return allowed, packNumbers(FIXED, 1, start, used), expiry
end

algorithms[102] = function(value, arguments, at, force)
  local capacity, cost, window = unpackNumbers('<ddd', arguments, at)
  local start = now - now % window -- exact below 2^53
  return countWindow(value, capacity, cost, start, start + window, force)
end

local function readGCRA(value)
  if #value == GCRA_BYTES then
    local form, at, rest, scale, granted, back = unpackNumbers(GCRA, value)
    if form == 2 then return at, rest, scale, granted, back end
  end
  return 0, 0, 0, 0, 0
end

algorithms[103] = function(value, arguments, at, force)
  local fullWhole, fullRest, costWhole, costRest, rate, longest = unpackNumbers('<dddddd', arguments, at)
  local before, rest, scale, granted, back = readGCRA(value)
  local arrival = before
  fullWhole = fullWhole + now
  longest = longest + now
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
  if before > now and before > arrival then back = back + before - arrival + 1 end
  arrival = arrival + costWhole
  rest = rest + costRest
  if rest >= rate then
    arrival = arrival + 1
    rest = rest - rate
  end
  local allowed = arrival < fullWhole or (arrival == fullWhole and rest <= fullRest)
  if not allowed and not force then return false end
  if arrival >= longest then
    arrival = longest
    rest = 0
  end
  -- The expiry moves with every charge, so one for longer is asked for, and
  -- another only when that one has become too short.
  local expiry
  if arrival >= granted then
    granted = arrival + 1 + fullWhole - now
    expiry = granted
  end
  return allowed, packNumbers(GCRA, 2, arrival, rest, rate, granted, back), expiry
end

-- Each call makes its functions anew, so it doesn't make these before one is asked
-- for. others returns the letter's one of a table, which is then complete.
local function others(from, letter)
  -- nil says that now is in none of the periods.
  algorithms[99] = function(value, arguments, at, force)
    local capacity, cost, a, b, c, d = unpackNumbers('<dddddd', arguments, at)
    if now < a or now >= d then return nil end
    if now < b then return countWindow(value, capacity, cost, a, b, force) end
    if now < c then return countWindow(value, capacity, cost, b, c, force) end
    return countWindow(value, capacity, cost, c, d, force)
  end

  local function readFixed(value)
    if #value == FIXED_BYTES then
      local form, at, count = unpackNumbers(FIXED, value)
      if form == 1 then return at, count end
    end
    return -1, 0
  end

  refunds[102] = function(value, arguments, at)
    local cost, charged = unpackNumbers('<dd', arguments, at)
    local from, used = readFixed(value)
    if from ~= charged then return nil end
    return packNumbers(FIXED, 1, from, math.max(0, used - cost))
  end
  refunds[99] = refunds[102]

  refunds[103] = function(value, arguments, at)
    local costWhole, costRest, rate, chargedAt, chargedBack = unpackNumbers('<ddddd', arguments, at)
    local arrival, rest, scale, granted, back = readGCRA(value)
    if scale ~= rate or arrival < now then return nil end
    local undrained = chargedAt - math.max(0, back - chargedBack) - now
    if undrained <= 0 then return nil end
    if costWhole >= undrained then
      costWhole = undrained
      costRest = 0
    end
    arrival = arrival - costWhole
    if rest < costRest then
      arrival = arrival - 1
      rest = rest + rate
    end
    rest = rest - costRest
    if arrival < now then
      arrival = now
      rest = 0
    end
    if costRest > 0 then costWhole = costWhole + 1 end
    return packNumbers(GCRA, 2, arrival, rest, rate, granted, back + costWhole)
  end

  -- All marks of a log as one flat list of times and costs, and how many there are.
  local function readMarks(value)
    local count = (#value - 1) / MARK_BYTES
    if count < 1 or count > MAX_MARKS or string.byte(value) ~= LOG or count % 1 ~= 0 then return {}, 0 end
    return {unpackNumbers('<' .. string.rep(MARK, count), value, 2)}, count
  end

  -- The marks of a log that count, which lie together since they are in the order of
  -- time: the list, the first and the last of them, and the sum of their costs.
  local function readLog(value, window)
    local marks, last = readMarks(value)
    local first, used = 1, 0
    while first <= last and marks[2 * first - 1] <= now - window do first = first + 1 end
    while last >= first and marks[2 * last - 1] > now + window do last = last - 1 end
    for i = 2 * first, 2 * last, 2 do used = used + marks[i] end
    return marks, first, last, used
  end

  local function packLog(times, costs, n)
    local flat = {}
    for i = 1, n do
      flat[2 * i - 1], flat[2 * i] = times[i], costs[i]
    end
    return packNumbers('<B' .. string.rep(MARK, n), LOG, unpack(flat))
  end

  local function lists(marks, first, last)
    local times, costs = {}, {}
    for i = first, last do
      times[i - first + 1], costs[i - first + 1] = marks[2 * i - 1], marks[2 * i]
    end
    return times, costs
  end

  local function join(times, costs, i)
    costs[i + 1] = math.min(MAX_COST, costs[i + 1] + costs[i])
    table.remove(times, i)
    table.remove(costs, i)
  end

  -- A full log makes room: the marks of one slot become one.
  local function coalesced(marks, first, last, time, cost, slot)
    local times, costs = lists(marks, first, last)
    times[#times + 1], costs[#costs + 1] = time, cost
    for i = #times - 1, 1, -1 do
      if math.floor(times[i] / slot) == math.floor(times[i + 1] / slot) then join(times, costs, i) end
    end
    while #times > MAX_MARKS do join(times, costs, 1) end
    return packLog(times, costs, #times)
  end

  algorithms[115] = function(value, arguments, at, force)
    local capacity, cost, window, slot = unpackNumbers('<dddd', arguments, at)
    local marks, first, last, used = readLog(value, window)
    local allowed = used + cost <= capacity
    if not allowed and not force then return false end
    local time, kept = now, last
    cost = math.min(MAX_COST, cost)
    if last >= first then
      local latest, full = marks[2 * last - 1], last - first + 1 == MAX_MARKS
      if latest >= now or (full and math.floor(latest / slot) == math.floor(now / slot)) then
        time = math.max(time, latest)
        cost = math.min(MAX_COST, cost + marks[2 * last])
        kept = last - 1
      elseif full then
        return allowed, coalesced(marks, first, last, time, cost, slot), time + window
      end
    end
    -- All but the last mark stay as they are written.
    local before = string.sub(value, 2 + MARK_BYTES * (first - 1), 1 + MARK_BYTES * kept)
    return allowed, string.char(LOG) .. before .. packNumbers('<' .. MARK, time, cost), time + window
  end

  refunds[115] = function(value, arguments, at)
    local cost, charged, window = unpackNumbers('<ddd', arguments, at)
    if charged <= now - window then return nil end
    local times, costs = lists(readLog(value, window))
    for i = 1, #times do
      if times[i] >= charged then
        costs[i] = costs[i] - math.min(cost, costs[i])
        if costs[i] == 0 then
          table.remove(times, i)
          table.remove(costs, i)
        end
        return packLog(times, costs, #times)
      end
    end
    return nil
  end
  return from[letter]
end
