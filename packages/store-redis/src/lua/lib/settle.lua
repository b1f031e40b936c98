-- How a run ends, and how it is cancelled. Needs stream, queue, dead, gates and hooks.
--
-- Record, queue, lease, gates, webhook and the session's next run change in one step.

-- A run ended; `at` is the position of its last entry, nil for one that ended without. What the append changes of the session
-- is to be written before this.
local function settle(R, status, at)
  local run = run_key(R)
  if at then
    call('HSET', run, 'status', status, 'ended', num(now), 'at', num(at))
  else
    call('HSET', run, 'status', status, 'ended', num(now))
  end
  shelve(R)
  close_gates(R)
  hand_on(R, field(run, 'd') or '')
  post(R, 'run.ended', status, nil, at)
  changed(R)
end

-- A run that nobody can read fails without an entry (its log may be what cannot be read).
local function set_aside(R, why)
  call('HDEL', run_key(R), 'redriven') -- what was driven again may be so once more
  note_dead(R, why)
  settle(R, 'failed')
end

-- Asks for a run to be ended: at once where it never started or waits behind others of its session (whose turn it is, nobody else
-- may write in between), by its owner or the next one where it did. Answers false when there is none, or whether it has ended.
local function cancel_run(R)
  local run = run_key(R)
  if call('EXISTS', run) == 0 then
    return false
  end
  local q, started, d = unpack(call('HMGET', run, 'q', 'started', 'd'))
  if not q then
    return 'ended'
  end
  if not started or q == 'blocked' then
    settle(R, 'cancelled')
    return 'ended'
  end
  if q == 'paused' then
    -- From here on no verdict counts: there is one outcome, and it is this.
    close_gates(R)
    call('HSET', run, 'status', 'queued')
  end
  if q ~= 'leased' and q ~= 'ready' then
    leave(R)
    make_ready(R)
  end
  if call('HSETNX', run, 'cancel', '1') == 1 then
    changed(R)
  else
    call('PUBLISH', P .. 'r:' .. R, field(run, 'version'))
  end
  tell_owner(R)
  return 'asked'
end
