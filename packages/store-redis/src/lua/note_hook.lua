-- Notes what became of an attempt. ARGV: id, attempt, the message's state from now on, the receiver's status or '', what failed or
-- '', when it is due again (ms from now). Answers whether that changed anything.
local id, attempt, state, status, failure = unpack(ARGV, 2, 6)
local hook = P .. 'hook:' .. id
local before, attempts, R, way = unpack(call('HMGET', hook, 'state', 'attempts', 'run', 'channel'))
-- That it was received is true whoever says so.
if before ~= 'pending' or not (attempts == attempt or state == 'sent') then
  return 0
end
local channel = channel_of(way)
local queue = P .. channel.queue
call('ZREM', queue .. ':leased', id)
call('HSET', hook, 'state', state)
for name, value in pairs({status = status, error = failure}) do
  if value ~= '' then
    call('HSET', hook, name, value)
  else
    call('HDEL', hook, name)
  end
end
local run = P .. 'run:' .. R
local kept = call('EXISTS', run) == 1
if state == 'pending' then
  call('ZADD', queue, num(now + tonumber(ARGV[7])), id)
  call('PUBLISH', P .. channel.news, id) -- whoever waits for the next one learns when that is
else
  call('ZREM', queue, id)
  -- A record shows the latest message about it; of earlier ones nobody asks any more.
  if not kept or call('LINDEX', queue .. ':' .. R, 0) ~= id then
    call('LREM', queue .. ':' .. R, 1, id)
    call('DEL', hook)
  end
end
if kept then
  call('PUBLISH', P .. 'r:' .. R, call('HINCRBY', run, 'version', 1))
end
return 1
