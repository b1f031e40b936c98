-- Gates, newest first. ARGV: tenant or '', run or '', 1 for pending ones only and 0 for others only or '', below which row or '',
-- most gates, most bytes. Answers down to which row it looked, if there may be more below, or ''; and the gates: row, run, tenant,
-- session, number, state, question, when asked, when it expires or '', decision, when decided.
local tenant, run, pending = unpack(ARGV, 2, 4)
local below, limit, most = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

-- Gates that one step looks at, and that it reads the names of at once.
local MAX_LOOKED, PAGE = 1000, 100

local found, bytes, looked, last = {}, 0, 0, nil

-- Looks at one more, unless there is enough already; answers whether it did.
local function look(row, R, n)
  if #found >= limit or bytes >= most or looked >= MAX_LOOKED then
    return false
  end
  looked, last = looked + 1, row
  local state = field(P .. 'gates:' .. R, n .. ':state')
  if not state or (pending ~= '' and (state == 'pending') ~= (pending == '1')) then
    return true
  end
  local of, session = unpack(call('HMGET', P .. 'run:' .. R, 'tenant', 'session'))
  if not of or (tenant ~= '' and of ~= tenant) then
    return true
  end
  local question, requested, expires, decision, decided = unpack(call('HMGET', P .. 'gates:' .. R, n .. ':question',
    n .. ':requested', n .. ':expires', n .. ':decision', n .. ':decided'))
  found[#found + 1] = {num(row), R, of, session, n, state, question, requested, expires or '', decision, decided or ''}
  bytes = bytes + #(question or '')
  return true
end

local function of_run(R)
  local first, to = unpack(call('HMGET', P .. 'gates:' .. R, 'first', 'last'))
  for n = tonumber(to or -1), tonumber(first or 0), -1 do
    local row = numeric(P .. 'gates:' .. R, num(n) .. ':row')
    if (not below or row < below) and not look(row, R, num(n)) then
      return true
    end
  end
  return false
end

local function of_list(list)
  local from = below and '(' .. hex16(below) or '+'
  while true do
    local page = call('ZREVRANGEBYLEX', list, from, '-', 'LIMIT', 0, PAGE)
    for _, member in ipairs(page) do
      local high, low, R, n = string.match(member, '^(%x%x%x%x%x%x%x%x)(%x%x%x%x%x%x%x%x):(.*):(%d+)$')
      if not look(tonumber(high, 16) * 4294967296 + tonumber(low, 16), R, n) then
        return true
      end
    end
    if #page < PAGE then
      return false
    end
    from = '(' .. page[#page]
  end
end

local more
if run ~= '' then
  more = of_run(run)
else
  local list = P .. (pending == '1' and 'gates:pending' or 'gates')
  more = of_list(tenant ~= '' and list .. ':t:' .. redis.sha1hex(tenant) or list)
end
return {more and num(last) or '', found}
