-- Changes what is kept of a schedule, if nobody else did since it was read. One that is new may make others go: those that were
-- due longest ago.
-- ARGV: its name, the state that was read (empty for none), the new one, up to when nothing is owed, how many are kept.
-- Answers whether it did.
local states, order = P .. 'schedules', P .. 'schedules:due'
local name, before = ARGV[2], ARGV[3]
if (field(states, name) or '') ~= before then
  return 0
end
call('HSET', states, name, ARGV[4])
call('ZADD', order, ARGV[5], name)
if before == '' then
  local over = call('HLEN', states) - tonumber(ARGV[6])
  for _, other in ipairs(call('ZRANGE', order, 0, math.max(over, 0))) do
    if over > 0 and other ~= name then
      call('HDEL', states, other)
      call('ZREM', order, other)
      over = over - 1
    end
  end
end
return 1
