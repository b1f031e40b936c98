-- A page of a session's log, or nothing where the session has another life. ARGV: session, life, from, most entries, most bytes.
local life, head, anc, forked_at = unpack(call('HMGET', P .. 's:' .. ARGV[2], 'life', 'head', 'anc', 'forked_at'))
if life ~= ARGV[3] then
  return nil
end
local upto = tonumber(head)
return {read_entries(parts_of(life, anc, forked_at, upto), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]))}
