-- A session in a few words, or nothing. ARGV: session.
local of = call('HMGET', P .. 's:' .. ARGV[2], unpack(SHOWN))
if not of[1] then
  return nil
end
of[#SHOWN + 1] = of[#SHOWN] and count_pending_gates(of[#SHOWN]) or 0
return of
