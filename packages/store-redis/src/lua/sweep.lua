-- Removes records that ended long ago, the oldest first. ARGV: ended at or before, at most so many. Answers how many there were.
local old = call('ZRANGEBYSCORE', P .. 'runs:ended', '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
for _, R in ipairs(old) do
  forget_run(R)
end
return #old
