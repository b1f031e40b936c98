-- Removes records that ended long ago, the oldest first. ARGV: how long they are kept (ms), most of them. Answers how many there were.
local ended_by, most = now - tonumber(ARGV[2]), tonumber(ARGV[3])
local removed = 0
for _, R in ipairs(call('ZRANGEBYSCORE', P .. 'runs:ended', '-inf', num(ended_by), 'LIMIT', 0, most)) do
  forget_run(R)
  removed = removed + 1
end
-- Those with a dead letter are ordered by when it was shelved, which is when they ended or later.
local letters = removed < most and call('ZRANGE', P .. 'dead', 0, most - removed - 1) or {}
for _, R in ipairs(letters) do
  local ended = numeric(P .. 'run:' .. R, 'ended')
  if ended > ended_by then
    break
  end
  if ended > 0 then
    forget_run(R)
    removed = removed + 1
  end
end
return removed
