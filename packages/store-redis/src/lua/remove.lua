-- Removes an idle session with everything by which it could be found; what nobody can read any more becomes garbage.
-- ARGV: session, most records, '' or since when (ms) it must be idle.
-- Answers what became of it, in one word. `busy`: and its run. `records`: so many records, gates and dead letters are gone and there
-- may be more, ask again. `removed`: the same, entries that nobody can read, entries that stay, for how many forks, and the
-- epoch at which its hands must forget it or ''.
local D, most, since = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local session, idle = P .. 's:' .. D, P .. 'sessions:idle'
local life, tenant, id, head, epoch, front, handed, parent, forked_at, anc, updated = unpack(call('HMGET', session, 'life', 'tenant',
  'session', 'head', 'epoch', 'front', 'handed', 'parent', 'forked_at', 'anc', 'updated'))
if not life then
  call('ZREM', idle, D)
  return {'unknown'}
end
if front then
  call('ZREM', idle, D)
  return {'busy', front}
end
if since and tonumber(updated) > since then
  call('ZADD', idle, updated, D)
  return {'used'}
end

-- Its records, so many at a time: a session without its oldest records is one whose records have expired.
local runs, gates, letters = call('SRANDMEMBER', P .. 'runs:l:' .. life, most), 0, 0
for _, R in ipairs(runs) do
  local first, last = unpack(call('HMGET', P .. 'gates:' .. R, 'first', 'last'))
  if first and last then
    gates = gates + tonumber(last) - tonumber(first) + 1
  end
  if forget_run(R) then
    letters = letters + 1
  end
end
if call('EXISTS', P .. 'runs:l:' .. life) == 1 then
  return {'records', #runs, gates, letters}
end

-- What of a part lies above the last entry that a fork needs is garbage. Answers where that is, and how many forks there are.
local function discard(upto, source)
  local uses = P .. 'uses:' .. source
  local needed = tonumber(call('ZREVRANGE', uses, 0, 0, 'WITHSCORES')[2] or 0)
  if needed < upto then
    call('ZADD', P .. 'garbage', 'LT', num(needed), source)
  end
  return needed, call('ZCARD', uses)
end

local above, upto = tonumber(forked_at or 0), tonumber(head)
local shared = anc and cjson.decode(anc) or {}
for _, part in ipairs(shared) do
  call('ZREM', P .. 'uses:' .. num(part[3]), life)
end
call('DEL', session, P .. 'life:' .. life)
for _, list in ipairs(session_lists(tenant)) do
  call('ZREM', list, session_member(D, life))
end
call('ZREM', idle, D)
local needed, forks = discard(upto, life)
local kept = math.max(needed - above, 0)
local entries = upto - above - kept
-- Of a session that is gone itself, only what forks share was left; this may have been the last of them.
for _, part in ipairs(shared) do
  local from, to, source = part[1], part[2], num(part[3])
  if call('EXISTS', P .. 'life:' .. source) == 0 then
    entries = entries + math.max(to - math.max(discard(to, source), from), 0)
  end
end
local origin = parent and call('GET', P .. 'life:' .. parent)
if origin then
  call('HINCRBY', P .. 's:' .. origin, 'forks', -1)
end

-- Whoever owned it must never be taken for the owner of a later one, and what hands know of it not for that one's.
local over = tonumber(epoch) + 1
for _, bound in ipairs({'floor', 'removed'}) do
  call('HSET', P .. 'meta', bound, num(math.max(numeric(P .. 'meta', bound), over)))
end
if handed == '1' then
  call('HSET', P .. 'forget:' .. D, 'tenant', tenant, 'session', id, 'epoch', num(over))
  call('ZADD', P .. 'forget', num(now), D)
end
return {'removed', #runs, gates, letters, num(entries), num(kept), forks, handed == '1' and num(over) or ''}
