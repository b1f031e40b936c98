-- Runs that were given up. The field `dead` of a run says why; once it has ended it stands in `P dead` instead of `P runs:ended`,
-- so that its record is kept for as long as its dead letter.

-- A run has ended (its field `ended` is set): from now on its record waits for its time.
local function shelve(R)
  local run = P .. 'run:' .. R
  if call('HEXISTS', run, 'dead') == 1 then
    call('ZREM', P .. 'runs:ended', R)
    call('ZADD', P .. 'dead', 'NX', num(next_row()), R)
  else
    call('ZADD', P .. 'runs:ended', call('HGET', run, 'ended'), R)
  end
end

-- Notes that a run was given up; the first note counts, and one about a run that is gone does not.
local function note_dead(R, why)
  local run = P .. 'run:' .. R
  if call('EXISTS', run) == 1 and call('HSETNX', run, 'dead', why) == 1 then
    call('HSET', run, 'dead_at', num(now))
    if call('HEXISTS', run, 'ended') == 1 then
      shelve(R)
    end
  end
end
