-- Since when messages of a channel have been due, the longest due first. ARGV: channel, most messages. Answers how long it is until
-- the next one is due or the next claim ends (ms), or ''; and for each message that is due since when.
local queue, due = P .. channel_of(ARGV[2]).queue, {}
for n, part in ipairs(call('ZRANGEBYSCORE', queue, '-inf', num(now), 'WITHSCORES', 'LIMIT', 0, ARGV[3])) do
  if n % 2 == 0 then
    due[#due + 1] = part
  end
end
return {until_next_message(ARGV[2]), due}
