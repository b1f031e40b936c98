-- Appending: what every append does, whether its run goes on afterwards (append.lua) or ends or waits for people (append_last.lua).
-- Needs log.
--
-- ARGV: session, epoch, after, write id, written at, schema; then what the program read from the entries: the run that they name or
-- '', what is wrong with them or '', whether they are progress, whether hands may know the session from now on, where resume
-- begins or ''; how the run ended or '', and where; how many marks, gates and bodies follow, and the number of the first gate. Then
-- the marks (position, where resume begins or '', next gate or ''), the gates (question, expires or ''), the bodies.
local GATES, FIRST_GATE, FIRST_MARK = 16, 18, 19

-- Checks and appends. Answers what the script answers: `ok`; `fenced` and the epoch; `conflict` and the head; `wrong` and why. And
-- the run whose turn it is, if something was appended just now.
local function append_entries()
  local D, epoch, after, write_id, at, schema = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
  local run, wrong = ARGV[8], ARGV[9]
  local marks, gates, bodies, first_gate = tonumber(ARGV[15]), tonumber(ARGV[GATES]), tonumber(ARGV[17]), tonumber(ARGV[FIRST_GATE])
  local first_question = FIRST_MARK + 3 * marks
  local first_body = first_question + 2 * gates

  local session = P .. 's:' .. D
  local life, current, head, resume, next_gate, front, owned, progressed, handed = unpack(call('HMGET', session, 'life', 'epoch', 'head',
    'resume', 'gate', 'front', 'owned', 'progressed', 'handed'))
  if not life then
    return {'fenced', '0'}
  end
  if epoch ~= current then
    return {'fenced', current}
  end
  head, next_gate = tonumber(head), tonumber(next_gate)
  if after ~= head then
    if after < head and wrote(life, after + 1, epoch, write_id) then
      -- Changes nothing, but it is a write of this connection: whoever waits for it to be durable waits for the first one too.
      call('HSET', session, 'head', num(head))
      return {'ok'}
    end
    return owned == '1' and {'conflict', num(head)} or {'fenced', current}
  end
  if owned ~= '1' then
    return {'fenced', current} -- given back or ended since: nobody may write
  end
  if wrong ~= '' then
    return {'wrong', wrong}
  end
  if run ~= '' and run ~= front then
    return {'wrong', 'an entry names run ' .. run .. ', but the lease is for ' .. (front or 'none')}
  end
  if gates > 0 and first_gate ~= next_gate then
    return {'wrong', 'a gate has the number ' .. num(first_gate) .. ", the session's next is " .. num(next_gate)}
  end

  for n = 1, bodies do
    put_entry(life, head + n, epoch, at, schema, n == 1 and write_id, ARGV[first_body + n - 1])
  end
  for n = FIRST_MARK, first_question - 1, 3 do
    local to = ARGV[n + 1] ~= '' and ARGV[n + 1] or resume
    put_mark(life, ARGV[n], to, ARGV[n + 2] ~= '' and ARGV[n + 2] or num(next_gate))
  end
  if ARGV[12] ~= '' then
    resume = ARGV[12]
  end
  call('HSET', session, 'head', num(head + bodies), 'resume', resume, 'gate', num(next_gate + gates), 'updated', num(now),
    'progressed', ARGV[10] == '1' and '1' or progressed or '0', 'handed', ARGV[11] == '1' and '1' or handed or '0')
  tell_grown(D, head + bodies)
  return {'ok'}, front
end
