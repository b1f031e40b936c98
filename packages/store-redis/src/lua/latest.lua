-- The record of a session's latest run, or nothing. ARGV: session.
local latest = field(P .. 's:' .. ARGV[2], 'latest')
local record = latest and record_of(latest)
return record and {record} or nil
