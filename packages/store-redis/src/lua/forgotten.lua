-- The hands have forgotten a removed session. ARGV: session, the epoch at which they did.
if field(P .. 'forget:' .. ARGV[2], 'epoch') == ARGV[3] then
  call('DEL', P .. 'forget:' .. ARGV[2])
  call('ZREM', P .. 'forget', ARGV[2])
end
return 1
