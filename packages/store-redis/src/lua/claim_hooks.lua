-- Claims messages that are due, the one first that has been due longest. ARGV: most messages, how long the claims last (ms).
-- Answers how long it is until the next one is due or the next claim ends (ms), or ''; and the messages: id, run, tenant, target, body, attempt.
local hooks, ends = P .. 'hooks', num(now + tonumber(ARGV[3]))
local claimed = {}
for _, id in ipairs(call('ZRANGEBYSCORE', hooks, '-inf', num(now), 'LIMIT', 0, ARGV[2])) do
  local hook = P .. 'hook:' .. id
  local R, tenant, target, body = unpack(call('HMGET', hook, 'run', 'tenant', 'target', 'body'))
  if R then
    claimed[#claimed + 1] = {id, R, tenant, target, body, call('HINCRBY', hook, 'attempts', 1)}
    call('ZADD', hooks, ends, id)
    call('ZADD', P .. 'hooks:leased', ends, id)
  else
    call('ZREM', hooks, id) -- what nobody can send keeps nobody waiting
    call('ZREM', P .. 'hooks:leased', id)
  end
end
return {until_next_webhook(), claimed}
