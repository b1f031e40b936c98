-- Makes a fork: a session that shares the entries of another up to a position. ARGV: from, into, its id, position, the life of the
-- origin that the program has read, what it inherits or '', most parts. Answers what became of it, in one word, and the head of
-- the origin where the position is none of it; `moved` when the origin has another life by now.
local from, into, id, position, expected, wishes, most = unpack(ARGV, 2, 8)
position = tonumber(position)
local life, tenant, name, head, anc, forked_at =
  unpack(call('HMGET', P .. 's:' .. from, 'life', 'tenant', 'session', 'head', 'anc', 'forked_at'))
if not life then
  return {'unknown'}
end
local made, parent, at = unpack(call('HMGET', P .. 's:' .. into, 'life', 'parent', 'forked_at'))
if made then
  return {parent == life and tonumber(at) == position and 'existing' or 'taken'}
end
if position < 1 or position > tonumber(head) then
  return {'out of range', head}
end
if refused(into) then
  return {refused(into)}
end
local parts = parts_of(life, anc, forked_at, position)
if #parts >= tonumber(most) then
  return {'too deep'}
end
if life ~= expected then
  return {'moved'}
end

local resume, gate = mark_of(parts)
local new, shared = num(next_number('life')), {}
add_session(into, new, tenant, id, position, resume, gate, now)
for n, part in ipairs(parts) do
  shared[n] = '[' .. num(part[1]) .. ',' .. num(part[2]) .. ',' .. part[3] .. ']'
  call('ZADD', P .. 'uses:' .. part[3], num(part[2]), new)
end
call('HSET', P .. 's:' .. into, 'parent', life, 'parent_id', name, 'forked_at', num(position),
  'anc', '[' .. table.concat(shared, ',') .. ']')
if wishes ~= '' then
  call('HSET', P .. 's:' .. into, 'wishes', wishes)
end
call('HINCRBY', P .. 's:' .. from, 'forks', 1)
return {'created'}
