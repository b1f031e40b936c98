-- A page of dead letters, newest first. ARGV: below this row or '', tenant or '', most letters, most to look at.
-- Answers of each its row, run, tenant, session, reason, when (ms) and whether it was set aside; and the row down to which it looked if
-- there may be more below.
local below, tenant, limit, most = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

-- Letters that one ZREVRANGEBYSCORE reads.
local PAGE = 100

local found, looked, last = {}, 0, nil
local from = below ~= '' and '(' .. below or '+inf'
while true do
  local page = call('ZREVRANGEBYSCORE', P .. 'dead', from, '-inf', 'WITHSCORES', 'LIMIT', 0, PAGE)
  for n = 1, #page, 2 do
    if #found >= limit or looked >= most then
      return {found, last}
    end
    looked, last = looked + 1, num(tonumber(page[n + 1]))
    from = '(' .. last
    local of = call('HMGET', P .. 'run:' .. page[n], 'tenant', 'session', 'dead', 'dead_at', 'at')
    if of[1] and (tenant == '' or of[1] == tenant) then
      found[#found + 1] = {last, page[n], of[1], of[2], of[3], of[4], of[5] and '0' or '1'}
    end
  end
  if #page < 2 * PAGE then
    return {found, false}
  end
end
