-- What further runs of a session inherit: its life, and that or nil; nothing where there is no such session. ARGV: session.
local of = call('HMGET', P .. 's:' .. ARGV[2], 'life', 'wishes')
return of[1] and of or nil
