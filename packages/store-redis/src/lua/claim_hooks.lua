-- Claims messages of a channel that are due, the one first that has been due longest. ARGV: channel, most messages, how long the
-- claims last (ms). Answers how long it is until the next one is due or the next claim ends (ms), or ''; and the messages: id, run,
-- tenant, target, body, where the end is that it is about or '', attempt.
local queue, ends = P .. channel_of(ARGV[2]).queue, num(now + tonumber(ARGV[4]))
local claimed = {}
for _, id in ipairs(call('ZRANGEBYSCORE', queue, '-inf', num(now), 'LIMIT', 0, ARGV[3])) do
  local hook = P .. 'hook:' .. id
  local R, tenant, target, body, at = unpack(call('HMGET', hook, 'run', 'tenant', 'target', 'body', 'at'))
  if R then
    claimed[#claimed + 1] = {id, R, tenant, target, body, at or '', call('HINCRBY', hook, 'attempts', 1)}
    call('ZADD', queue, ends, id)
    call('ZADD', queue .. ':leased', ends, id)
  else
    call('ZREM', queue, id) -- what nobody can send keeps nobody waiting
    call('ZREM', queue .. ':leased', id)
  end
end
return {until_next_message(ARGV[2]), claimed}
