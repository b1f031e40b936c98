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

local life, front, first, first_hash, inherited, target, epoch, head, resume, gate, born = unpack(call('HMGET', session, 'life', 'front',
  'first', 'hash', 'wishes', 'webhook', 'epoch', 'head', 'resume', 'gate', 'born'))
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
local row, last_life, floor, queued, removed = unpack(call('HMGET', meta, 'row', 'life', 'floor', 'queued', 'removed'))
row, last_life, floor, queued = tonumber(row or 0), tonumber(last_life or 0), tonumber(floor or 0), tonumber(queued or 0)
if queued >= most then
  return {'full'}
end
if call('EXISTS', run) == 1 then
  return {'taken'}
end

local place = front and 'blocked' or due > now and 'delayed' or worker ~= '' and 'leased' or 'ready'
local claimed, at, is_new = place == 'leased', num(now), not life
row = number_after(row)
if is_new then
  last_life = number_after(last_life)
  life, epoch, born, head, resume, gate = num(last_life), floor, removed or '0', '0', '1', '0'
end
call('HSET', meta, 'row', num(row), 'life', num(last_life))

-- Adds names and values, but for empty ones.
local function add(fields, more)
  for n = 1, #more, 2 do
    if more[n + 1] and more[n + 1] ~= '' then
      fields[#fields + 1], fields[#fields + 2] = more[n], more[n + 1]
    end
  end
  return fields
end

-- The session.
local changes = {'latest', R, 'updated', at}
if is_new then
  add(changes, {'tenant', tenant, 'session', id, 'life', life, 'head', head, 'resume', resume, 'gate', gate, 'handed', '0', 'born', born,
    'first', R, 'created', at, 'hash', hash, 'wishes', wishes, 'webhook', webhook})
  local member = hex16(last_life) .. ':' .. D
  call('SET', P .. 'life:' .. life, D)
  call('ZADD', P .. 'sessions', 0, member)
  call('ZADD', P .. 'sessions:t:' .. redis.sha1hex(tenant), 0, member)
elseif not front then
  call('ZREM', P .. 'sessions:idle', D)
end
if not front then
  add(changes, {'front', R})
end
if claimed then
  epoch = num(math.max(tonumber(epoch), owner_floor(lease)) + 1)
  add(changes, {'epoch', epoch, 'owned', '1', 'progressed', '0'})
elseif is_new then
  add(changes, {'epoch', num(epoch), 'owned', '0', 'progressed', '0'})
end
call('HSET', session, unpack(changes))

-- The run.
local fields = {'row', num(row), 'tenant', tenant, 'session', id, 'd', D, 'life', life, 'status', claimed and 'running' or 'queued',
  'attempts', claimed and '1' or '0', 'version', '1', 'created', at, 'spec', spec, 'q', place, 'pri', priority, 'due', num(due),
  'urgent', urgent}
add(fields, {'key', idem, 'hash', hash, 'wishes', inherited, 'webhook', webhook ~= '' and webhook or target, 'files', files,
  'tp', traceparent, 'ts', tracestate})
if claimed then
  add(fields, {'started', at, 'from', num(head + 1)})
end
call('HSET', run, unpack(fields))
if idem ~= '' then
  call('SET', P .. 'idem:' .. idem, R)
end
list_run(R, row, tenant, life)
join(R, row)

-- Its place.
if claimed then
  count_ready(R)
  make_leased(R, worker, epoch, lease, read_tokens(1, worker, 1, {R})[1])
  return {'claimed', at, inherited, epoch, head, resume, gate, born}
elseif place == 'ready' then
  line_up(R, ready_member(R, priority, row))
elseif place == 'delayed' then
  make_delayed(R, due)
else
  make_blocked(R, life, row, urgent)
  if urgent == '1' then
    cancel_run(front)
  end
end
return {'created', at, inherited}
