-- Drives a dead letter again. ARGV: run, tenant or '', id of a new run, traceparent, tracestate, most runs. Answers nothing where there is
-- no such run; else what became of it, in one word. `queued` and `before`: and the run that does its work, tenant, session.
local R, tenant, new, traceparent, tracestate, most = unpack(ARGV, 2, 7)
local run = run_key(R)
local of, id, D, life, ended, at, redriven, row, spec, wishes, webhook, files = unpack(call('HMGET', run, 'tenant', 'session', 'd', 'life',
  'ended', 'at', 'redriven', 'row', 'spec', 'wishes', 'webhook', 'files'))
if not of or (tenant ~= '' and of ~= tenant) then
  return {}
end
if not (ended and call('ZSCORE', P .. 'dead', R)) then
  return redriven and {'before', redriven, of, id} or {'not dead'}
end
if not D then
  return {'no work'}
end
if numeric(P .. 'meta', 'queued') >= tonumber(most) then
  return {'full'}
end
if at and call('EXISTS', run_key(new)) == 1 then
  return {'taken'}
end

local session, again = P .. 's:' .. D, R
call('ZREM', P .. 'dead', R)
if at then
  -- It has an end in the log: its work is that of a further run.
  again, row = new, num(next_row())
  call('ZADD', P .. 'runs:ended', ended, R)
  call('HSET', run_key(new), 'row', row, 'tenant', of, 'session', id, 'd', D, 'life', life, 'status', 'queued', 'attempts', '0',
    'version', '1', 'created', num(now), 'spec', spec, 'redrive_of', R)
  for name, value in pairs({wishes = wishes or '', webhook = webhook or '', files = files or '', tp = traceparent, ts = tracestate}) do
    if value ~= '' then
      call('HSET', run_key(new), name, value)
    end
  end
  list_run(new, row, of, life)
  call('HSET', session, 'latest', new)
else
  call('HSET', run, 'status', 'queued', 'attempts', '0')
  call('HDEL', run, 'ended', 'dead', 'dead_at', 'cancel')
end
call('HSET', run, 'redriven', again)
call('HSET', run_key(again), 'pri', '0', 'due', '0', 'urgent', '0')
join(again, row)
call('HSET', session, 'updated', num(now))
if call('HEXISTS', session, 'front') == 1 then
  make_blocked(again, life, row, '0')
else
  call('HSET', session, 'front', again)
  call('ZREM', P .. 'sessions:idle', D)
  make_ready(again)
end
changed(R)
return {'queued', again, of, id}
