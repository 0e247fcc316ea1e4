-- The instant of the call, and for how many milliseconds keys are kept beyond
-- their expiry: keys expire by the server's clock, so another one needs them longer.
local now, grace = tonumber(ARGV[1]), 3600000
if not now then
  local time = redis.call('TIME')
  now, grace = time[1] * 1000000 + time[2], 0
end
