-- The record of a session's latest run, or nil. ARGV: session.
local latest = field(P .. 's:' .. ARGV[2], 'latest')
return {latest and record_of(latest) or false}
