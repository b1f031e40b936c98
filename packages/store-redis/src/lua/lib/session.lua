-- Sessions as such: how one is found and shown, and made by something else than a run. Needs log.

-- What lists and descriptions show of a session; its pending gates are counted by the script that shows it (lib/gates.lua).
local SHOWN = {'tenant', 'session', 'life', 'head', 'created', 'updated', 'parent_id', 'forked_at', 'forks', 'front'}

-- The members of the lists in which a session of a tenant stands.
local function session_lists(tenant)
  return {P .. 'sessions', P .. 'sessions:t:' .. redis.sha1hex(tenant)}
end

local function session_member(D, life)
  return hex16(tonumber(life)) .. ':' .. D
end

-- Makes an idle session with this life, of which nobody was an owner yet. Its further fields are the caller's.
local function add_session(D, life, tenant, id, head, resume, gate, created)
  local floor, born = num(numeric(P .. 'meta', 'floor')), num(numeric(P .. 'meta', 'removed'))
  call('HSET', P .. 's:' .. D, 'tenant', tenant, 'session', id, 'life', life, 'head', num(head),
    'epoch', floor, 'born', born, 'resume', resume, 'gate', gate, 'owned', '0', 'progressed', '0', 'handed', '0',
    'created', num(created), 'updated', num(now))
  call('SET', P .. 'life:' .. life, D)
  for _, list in ipairs(session_lists(tenant)) do
    call('ZADD', list, 0, session_member(D, life))
  end
  call('ZADD', P .. 'sessions:idle', num(now), D)
end

-- Where resume begins and the number of the next gate, in a log of just these parts: as text.
local function mark_of(parts)
  for n = #parts, 1, -1 do
    local mark = call('ZREVRANGEBYSCORE', P .. 'marks:' .. parts[n][3], num(parts[n][2]), '-inf', 'LIMIT', 0, 1)[1]
    if mark then
      return string.match(mark, '^%d+:(%d+):(%d+)$')
    end
  end
  return '1', '0'
end

-- Why no session can be made with this id, in one word; nil if one can.
local function refused(D)
  if call('EXISTS', P .. 's:' .. D) == 1 then
    return 'taken'
  end
  return call('EXISTS', P .. 'forget:' .. D) == 1 and 'forgetting' or nil
end
