-- Gates: what is kept of them beside their run, and the lists in which they are found. Needs the prelude alone.
--
-- `P gates:R` of a run: `first`, `last` (numbers: those of a run follow on), `pending` (numbers, separated by blanks),
-- `aborted` (the one that was decided by an abort), and of each gate n: `n:row`, `n:state` (pending, decided, closed), `n:question`,
-- `n:requested`, `n:expires`, and once it is decided `n:action`, `n:decision`, `n:decided`.

-- Due gates that one step counts.
local MAX_DUE = 1000

-- The numbers of a run's pending gates, as text, ascending.
local function pending_numbers(R)
  local found = {}
  for n in string.gmatch(field(P .. 'gates:' .. R, 'pending') or '', '%d+') do
    found[#found + 1] = n
  end
  return found
end

-- How many gates of a run are pending.
local function count_pending_gates(R)
  return #pending_numbers(R)
end

-- A run's pending gates, for its record: of each the number, the question, when it was asked and when it expires (or '').
local function pending_gates(R)
  local found = {}
  for _, n in ipairs(pending_numbers(R)) do
    local question, requested, expires =
      unpack(call('HMGET', P .. 'gates:' .. R, n .. ':question', n .. ':requested', n .. ':expires'))
    found[#found + 1] = {n, question, requested, expires or ''}
  end
  return found
end

-- The lists of all gates and of pending ones, of everybody and of the run's tenant.
local function gate_lists(R)
  local tenant = redis.sha1hex(field(P .. 'run:' .. R, 'tenant') or '')
  return {P .. 'gates', P .. 'gates:t:' .. tenant}, {P .. 'gates:pending', P .. 'gates:pending:t:' .. tenant}
end

local function gate_member(R, n, row)
  return hex16(row or numeric(P .. 'gates:' .. R, n .. ':row')) .. ':' .. R .. ':' .. n
end

-- A gate that is pending, or closed from the beginning.
local function add_gate(R, n, state, asked, at)
  local gates, row = P .. 'gates:' .. R, next_row()
  local all, pending = gate_lists(R)
  local member = gate_member(R, n, row)
  call('HSETNX', gates, 'first', n)
  call('HSET', gates, 'last', n, n .. ':row', num(row), n .. ':state', state, n .. ':question', asked.question,
    n .. ':requested', at)
  if asked.expires then
    call('HSET', gates, n .. ':expires', asked.expires)
  end
  for _, list in ipairs(all) do
    call('ZADD', list, 0, member)
  end
  if state ~= 'pending' then
    return
  end
  for _, list in ipairs(pending) do
    call('ZADD', list, 0, member)
  end
  local before = field(gates, 'pending')
  call('HSET', gates, 'pending', before and before .. ' ' .. n or n)
  if asked.expires then
    call('ZADD', P .. 'gates:due', asked.expires, R .. ':' .. n)
  end
end

-- A gate is not pending any more; answers whether others of its run are.
local function leave_pending(R, n)
  local rest = {}
  for _, other in ipairs(pending_numbers(R)) do
    if other ~= n then
      rest[#rest + 1] = other
    end
  end
  call('HSET', P .. 'gates:' .. R, 'pending', table.concat(rest, ' '))
  local _, lists = gate_lists(R)
  local member = gate_member(R, n)
  for _, list in ipairs(lists) do
    call('ZREM', list, member)
  end
  call('ZREM', P .. 'gates:due', R .. ':' .. n)
  return #rest > 0
end

-- No gate of the run takes a verdict any more.
local function close_gates(R)
  for _, n in ipairs(pending_numbers(R)) do
    leave_pending(R, n)
    call('HSET', P .. 'gates:' .. R, n .. ':state', 'closed')
  end
end

-- Runs with a pending gate whose time is over, so many at most.
local function gates_due()
  local runs, count = {}, 0
  for _, member in ipairs(call('ZRANGEBYSCORE', P .. 'gates:due', '-inf', num(now), 'LIMIT', 0, MAX_DUE)) do
    local R = string.match(member, '^(.*):')
    if not runs[R] then
      runs[R] = true
      count = count + 1
    end
  end
  return count
end

-- A run's record goes, and its gates with it. To be called while the record is there: it says whose they are.
local function forget_gates(R)
  local gates = P .. 'gates:' .. R
  close_gates(R)
  local first, last = unpack(call('HMGET', gates, 'first', 'last'))
  if first and last then
    local all = gate_lists(R)
    for n = tonumber(first), tonumber(last) do
      local member = gate_member(R, num(n))
      for _, list in ipairs(all) do
        call('ZREM', list, member)
      end
    end
  end
  call('DEL', gates)
end
