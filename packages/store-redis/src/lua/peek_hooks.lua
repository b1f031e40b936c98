-- Since when messages have been due, the longest due first. ARGV: most messages. Answers how long it is until the next one is due or
-- the next claim ends (ms), or ''; and for each message that is due since when.
local hooks, due = P .. 'hooks', {}
for n, part in ipairs(call('ZRANGEBYSCORE', hooks, '-inf', num(now), 'WITHSCORES', 'LIMIT', 0, ARGV[2])) do
  if n % 2 == 0 then
    due[#due + 1] = part
  end
end
return {until_next_webhook(), due}
