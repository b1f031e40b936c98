-- The record of a run, or nothing. ARGV: run.
local record = record_of(ARGV[2])
return record and {record} or nil
