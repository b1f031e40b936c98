-- A page of sessions, newest first. ARGV: below this life (16 hexadecimal digits, or '' for the newest), tenant or '', most of them.
-- Answers the sessions, and the life down to which it looked if there may be more below.
local below, tenant, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local lists = session_lists(tenant)
local members = call('ZREVRANGEBYLEX', tenant ~= '' and lists[2] or lists[1], below ~= '' and '(' .. below or '+', '-', 'LIMIT', 0,
  limit + 1)
local found = {}
for n = 1, math.min(#members, limit) do
  local of = call('HMGET', P .. 's:' .. string.sub(members[n], 18), unpack(SHOWN))
  -- One of another tenant with the same SHA-1 has no place here.
  if of[1] and (tenant == '' or of[1] == tenant) then
    of[#SHOWN + 1] = of[#SHOWN] and count_pending_gates(of[#SHOWN]) or 0
    found[#found + 1] = of
  end
end
local last = #members > limit and members[limit]
return {found, last and num(tonumber(string.sub(last, 1, 8), 16) * 4294967296 + tonumber(string.sub(last, 9, 16), 16))}
