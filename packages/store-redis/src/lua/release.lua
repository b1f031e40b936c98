-- Gives a run back. Answers nothing when there is no such run, or whether the lease was held.
-- ARGV: run, epoch, wait in milliseconds, whether the attempt counts.
local R, epoch, after, counts = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local run = run_key(R)
local row, q, d, current, attempts = unpack(call('HMGET', run, 'row', 'q', 'd', 'epoch', 'attempts'))
if not row then
  return {}
end
if current ~= epoch or not q then
  return {0}
end
leave(R)
disown(R, d)
if counts ~= '1' then
  attempts = num(math.max(tonumber(attempts) - 1, 0))
end
call('HSET', run, 'status', 'queued', 'attempts', attempts)
make_waiting(R, now + after)
changed(R)
return {1}
