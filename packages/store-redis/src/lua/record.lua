-- The record of a run, or nothing where there is none. ARGV: run, version. Nil for one that has not come to this version yet.
local version = field(P .. 'run:' .. ARGV[2], 'version')
if version and tonumber(version) < tonumber(ARGV[3]) then
  return {false}
end
local record = record_of(ARGV[2])
return record and {record} or nil
