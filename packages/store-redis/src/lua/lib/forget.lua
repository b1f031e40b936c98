-- The record of a run goes, and everything that goes with it. Needs gates and hooks.

-- Removes the record of an ended run; its session, its log and the messages that are still to be sent stay. Answers whether
-- it had a dead letter.
local function forget_run(R)
  local run = P .. 'run:' .. R
  local row, tenant, key, life = unpack(call('HMGET', run, 'row', 'tenant', 'key', 'life'))
  forget_gates(R)
  forget_messages(R)
  if row then
    local member = hex16(tonumber(row)) .. ':' .. R
    call('ZREM', P .. 'runs', member)
    call('ZREM', P .. 'runs:t:' .. redis.sha1hex(tenant or ''), member)
    if key and call('GET', P .. 'idem:' .. key) == R then
      call('DEL', P .. 'idem:' .. key)
    end
  end
  if life then
    call('SREM', P .. 'runs:l:' .. life, R)
  end
  call('ZREM', P .. 'runs:ended', R)
  call('DEL', run)
  return call('ZREM', P .. 'dead', R) == 1
end
