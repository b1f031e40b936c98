-- Where a session's log ends. ARGV: session. 0 where there is none.
return field(P .. 's:' .. ARGV[2], 'head') or '0'
