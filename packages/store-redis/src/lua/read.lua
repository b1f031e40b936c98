-- A page of a session's log, or nothing where there is no such session. ARGV: session, from, most entries, most bytes.
-- Answers the session's marks and the entries up to its head. An empty `from` begins where a resuming brain does.
local life, head, epoch, resume, gate, anc, forked_at =
  unpack(call('HMGET', P .. 's:' .. ARGV[2], 'life', 'head', 'epoch', 'resume', 'gate', 'anc', 'forked_at'))
if not life then
  return nil
end
local upto = tonumber(head)
local from = tonumber(ARGV[3]) or tonumber(resume)
local entries = {}
if from <= upto then
  entries = read_entries(parts_of(life, anc, forked_at, upto), from, tonumber(ARGV[4]), tonumber(ARGV[5]))
end
return {life, head, epoch, resume, gate, entries}
