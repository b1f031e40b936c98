-- Takes a verdict. ARGV: run, gate or '' for the only one that is pending, action, decision. Answers nothing where there is no such
-- run; `unknown`, `closed`, `several` and the pending gates, `conflict` and the gate and the verdict that stands, `repeated` and the
-- gate and the record, `recorded` and the gate, the record and the entry's position, or `lost` when the run has no session.
local R, n, action, decision = unpack(ARGV, 2, 5)
if call('EXISTS', run_key(R)) == 0 then
  return nil
end
local gates, pending = P .. 'gates:' .. R, pending_numbers(R)
if n == '' then
  if #pending > 1 then
    return {'several', pending}
  end
  -- What was decided last: is this the same again? An abort closed those that were asked after it.
  n = pending[1] or field(gates, 'aborted') or field(gates, 'last')
end
local state, earlier, stands = unpack(call('HMGET', gates, (n or '') .. ':state', (n or '') .. ':action', (n or '') .. ':decision'))
if not state then
  return {'unknown'}
elseif state == 'decided' then
  if earlier == action then
    return {'repeated', n, record_of(R)}
  end
  return {'conflict', n, stands}
elseif state ~= 'pending' then
  return {'closed'}
end
local position = give_verdict(R, n, action, decision)
if not position then
  return {'lost'}
end
return {'recorded', n, record_of(R), num(position)}
