-- Removes records whose time is over, the oldest first. ARGV: how long they are kept, and how long those with a dead letter are (ms,
-- from their end or their letter), how many of these, and how many records this step may touch. Answers how many it removed, and
-- whether there may be more.
local ended_by, dead_by = now - tonumber(ARGV[2]), now - math.max(tonumber(ARGV[2]), tonumber(ARGV[3]))
local letters, most = tonumber(ARGV[4]), tonumber(ARGV[5])
local dead, left, removed = P .. 'dead', most, 0

-- Of too many dead letters the oldest go, and their records live on like any other.
local over = math.min(call('ZCARD', dead) - letters, left)
if over > 0 then
  for _, R in ipairs(call('ZRANGE', dead, 0, over - 1)) do
    call('ZREM', dead, R)
    call('ZADD', P .. 'runs:ended', numeric(P .. 'run:' .. R, 'ended'), R)
  end
  left = left - over
end

-- Dead letters are ordered by rows, which begin with the time.
for _, gone in ipairs({{P .. 'runs:ended', ended_by}, {dead, dead_by * 2048 + 2047}}) do
  for _, R in ipairs(left > 0 and call('ZRANGEBYSCORE', gone[1], '-inf', num(gone[2]), 'LIMIT', 0, left) or {}) do
    forget_run(R)
    removed = removed + 1
    left = left - 1
  end
end
return {removed, left > 0 and 0 or 1}
