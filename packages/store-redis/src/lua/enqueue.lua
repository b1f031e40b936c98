-- Accepts a run: record, queue, idempotency key and, if asked, the first lease. Answers what became of it, in one word, and what the
-- program cannot know: the time, the wishes of the session, and the lease; or the record of another run.
-- ARGV: run, session, tenant, session id, what the session must be, idempotency, body's hash, spec, wishes, webhook, not before,
-- priority, interrupt, traceparent, tracestate, worker, lease, most runs, files.
local R, D, tenant, id, expects, idem, hash, spec = unpack(ARGV, 2, 9)
local wishes, webhook, due, priority, urgent, traceparent, tracestate, worker = unpack(ARGV, 10, 17)
local lease, most, files = tonumber(ARGV[18]), tonumber(ARGV[19]), ARGV[20]
local session, run, meta = P .. 's:' .. D, run_key(R), P .. 'meta'
due = tonumber(due)

if idem ~= '' then
  local earlier = call('GET', P .. 'idem:' .. idem)
  local known = earlier and field(run_key(earlier), 'hash')
  if known then
    if known ~= hash then
      return {'conflict'}
    end
    return {'existing', record_of(earlier)}
  end
end

local life, front, first, first_hash, inherited, target, epoch, head, resume, gate = unpack(call('HMGET', session, 'life', 'front',
  'first', 'hash', 'wishes', 'webhook', 'epoch', 'head', 'resume', 'gate'))
if life and expects == 'new' then
  if not first or not first_hash or first_hash ~= hash then
    return {'conflict'}
  end
  local record = record_of(first)
  if record then
    return {'existing', record}
  end
  return {'expired'}
end
if life and expects == 'ungated' and front and field(run_key(front), 'q') == 'paused' then
  return {'gated', record_of(front)}
end
if not life and expects ~= 'new' then
  return {'no session'}
end
if not life and call('EXISTS', P .. 'forget:' .. D) == 1 then
  return {'forgetting'}
end
if numeric(meta, 'queued') >= most then
  return {'full'}
end
if call('EXISTS', run) == 1 then
  return {'taken'}
end

local claimed = not front and due <= now and worker ~= ''
local row, at = next_row(), num(now)

-- The session.
if not life then
  life = num(next_number('life'))
  epoch, head, resume, gate = numeric(meta, 'floor'), '0', '1', '0'
  call('HSET', session, 'tenant', tenant, 'session', id, 'life', life, 'head', head, 'epoch', num(epoch), 'resume', resume, 'gate', gate,
    'owned', '0', 'progressed', '0', 'handed', '0', 'first', R, 'created', at)
  for name, value in pairs({hash = hash, wishes = wishes, webhook = webhook}) do
    if value ~= '' then
      call('HSET', session, name, value)
    end
  end
  call('SET', P .. 'life:' .. life, D)
  local member = hex16(tonumber(life)) .. ':' .. D
  call('ZADD', P .. 'sessions', 0, member)
  call('ZADD', P .. 'sessions:t:' .. redis.sha1hex(tenant), 0, member)
end
call('HSET', session, 'latest', R, 'updated', at)
if not front then
  call('HSET', session, 'front', R)
  call('ZREM', P .. 'sessions:idle', D)
end
if claimed then
  epoch = num(math.max(tonumber(epoch), owner_floor(lease)) + 1)
  call('HSET', session, 'epoch', epoch, 'owned', '1', 'progressed', '0')
end

-- The run.
webhook = webhook ~= '' and webhook or target or ''
call('HSET', run, 'row', num(row), 'tenant', tenant, 'session', id, 'd', D, 'life', life, 'status', claimed and 'running' or 'queued',
  'attempts', claimed and '1' or '0', 'version', '1', 'created', at, 'spec', spec, 'pri', priority, 'due', num(due), 'urgent', urgent)
for name, value in pairs({key = idem, hash = hash, wishes = inherited or '', webhook = webhook, files = files, tp = traceparent,
  ts = tracestate}) do
  if value ~= '' then
    call('HSET', run, name, value)
  end
end
if idem ~= '' then
  call('SET', P .. 'idem:' .. idem, R)
end
list_run(R, row, tenant, life)
join(R, row)

-- Its place.
if claimed then
  call('HSET', run, 'started', at, 'from', num(tonumber(head) + 1))
  count_ready(R)
  make_leased(R, worker, epoch, lease, read_tokens(1, worker, 1)[1])
  return {'claimed', at, inherited, epoch, head, resume, gate}
end
if front then
  make_blocked(R, life, num(row), urgent)
  if urgent == '1' then
    cancel_run(front)
  end
else
  make_waiting(R, due)
end
return {'created', at, inherited}
