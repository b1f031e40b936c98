-- How a run comes to wait for people, and what is decided about it. Needs stream, queue, gates, hooks and log.

-- The schema of the entries that are written here, and the verdict that falls when nobody decides; a test holds both to the
-- program's (`gates.rs`).
local SCHEMA = '2'
local EXPIRY = '{"action":"reject","feedback":"Nobody decided in time.","expired":true}'

-- The front run of its session waits for people from now on. What the append changes of the session is to be written before this.
-- `asked`: of each gate its number, the question, and when it expires or nil; asked at `at`.
local function park(R, asked, at)
  local run = run_key(R)
  local d, cancel = unpack(call('HMGET', run, 'd', 'cancel'))
  leave(R)
  disown(R, d)
  -- One that is to be cancelled must not wait: whoever claims it ends it.
  call('HSET', run, 'status', cancel and 'queued' or 'paused')
  for _, it in ipairs(asked) do
    add_gate(R, it.gate, cancel and 'closed' or 'pending', it, at)
  end
  if cancel then
    make_ready(R)
  else
    make_paused(R)
    post(R, 'run.paused', 'paused', tonumber(asked[1].gate))
  end
  changed(R)
end

-- The verdict on a pending gate becomes an entry, and a run without pending gates is claimable. Answers the entry's position, or
-- nil, with nothing changed, when the run has no session or its log takes no entry there (somebody wrote to it by hand).
local function give_verdict(R, n, action, decision)
  local run, gates = run_key(R), P .. 'gates:' .. R
  local d = field(run, 'd') or ''
  local session = P .. 's:' .. d
  local life, head, epoch = unpack(call('HMGET', session, 'life', 'head', 'epoch'))
  if not (life and tonumber(head)) then
    return nil
  end
  local position = tonumber(head) + 1
  local body = '{"type":"gate_decided","run":"' .. R .. '","gate":' .. n .. ',' .. string.sub(decision, 2)
  if not pcall(put_entry, life, position, epoch, num(now), SCHEMA, nil, body) then
    return nil
  end
  call('HSET', session, 'head', num(position), 'updated', num(now))
  call('HSET', gates, n .. ':state', 'decided', n .. ':action', action, n .. ':decision', decision, n .. ':decided', num(now))
  local waits = leave_pending(R, n)
  -- An abort ends the run whatever else was asked.
  if action == 'abort' then
    call('HSET', gates, 'aborted', n)
    close_gates(R)
    waits = false
  end
  if not waits then
    call('HSET', run, 'status', 'queued')
    leave(R)
    make_ready(R)
  end
  post(R, 'gate.decided', waits and 'paused' or 'queued', tonumber(n))
  changed(R)
  tell_grown(d, position)
  return position
end

-- Decides up to so many gates that nobody decided in time. A run whose log takes no verdict holds up no other: it is offered to whoever
-- claims, who sets it aside.
local function expire_gates(most)
  for _, member in ipairs(call('ZRANGEBYSCORE', P .. 'gates:due', '-inf', num(now), 'LIMIT', 0, most)) do
    local R, n = string.match(member, '^(.*):(%d+)$')
    if field(P .. 'gates:' .. R, n .. ':state') ~= 'pending' then
      call('ZREM', P .. 'gates:due', member)
    elseif not give_verdict(R, n, 'reject', EXPIRY) then
      close_gates(R)
      leave(R)
      make_ready(R)
    end
  end
end
