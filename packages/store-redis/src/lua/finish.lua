-- Makes a session of an import. ARGV: session, tenant, id, life, head, where resume begins, next gate, when it was made (ms), what is
-- inherited or ''; schema, epoch and body of one more entry, or ''. Answers why not, in one word; or `made` and the head.
local D, tenant, id, life, head, resume, gate, created, wishes = unpack(ARGV, 2, 10)
head = tonumber(head)
if refused(D) then
  return {refused(D)}
end
if not call('ZSCORE', P .. 'staged', life) then
  return {'lapsed'}
end
if ARGV[11] ~= '' then
  head = head + 1
  put_entry(life, head, ARGV[12], num(now), ARGV[11], nil, ARGV[13])
end
call('ZREM', P .. 'staged', life)
add_session(D, life, tenant, id, head, resume, gate, tonumber(created))
if wishes ~= '' then
  call('HSET', P .. 's:' .. D, 'wishes', wishes)
end
return {'made', num(head)}
