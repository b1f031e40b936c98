-- Sessions that are gone and that their hands must still forget, the oldest first. ARGV: most of them.
-- Answers of each since when, tenant, session and epoch.
local found = {}
local listed = call('ZRANGE', P .. 'forget', 0, ARGV[2] - 1, 'WITHSCORES')
for n = 1, #listed, 2 do
  local of = call('HMGET', P .. 'forget:' .. listed[n], 'tenant', 'session', 'epoch')
  if of[1] then
    found[#found + 1] = {listed[n + 1], of[1], of[2], of[3]}
  end
end
return found
