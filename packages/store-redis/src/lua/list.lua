-- A page of runs, newest first. ARGV: below this row (16 hexadecimal digits, or '' for the newest), from this row on (likewise),
-- tenant or '', status or '', created after or '', most records, most bytes of them, most runs to look at.
-- Answers the records, and the row down to which it looked; nil where there is no more.
local below, from, tenant, status, after = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local limit, bytes, most = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])

-- Runs that one ZRANGE reads.
local STEP = 100

local index = tenant ~= '' and P .. 'runs:t:' .. redis.sha1hex(tenant) or P .. 'runs'
if status == 'queued' or status == 'running' or status == 'paused' then
  -- Runs that have not ended are few; those that have may be many.
  if tenant == '' or call('ZCARD', P .. 'runs:open') < call('ZCARD', index) then
    index = P .. 'runs:open'
  end
end
local max, min = below ~= '' and '(' .. below or '+', from ~= '' and '[' .. from or '-'
local found, taken, seen, row = {}, 0, 0, nil
while true do
  local members = call('ZREVRANGEBYLEX', index, max, min, 'LIMIT', 0, STEP)
  for _, member in ipairs(members) do
    if #found >= limit or taken >= bytes or seen >= most then
      return {found, num(row)}
    end
    seen = seen + 1
    row = tonumber(string.sub(member, 1, 8), 16) * 4294967296 + tonumber(string.sub(member, 9, 16), 16)
    max = '(' .. member
    local R = string.sub(member, 18)
    local of = call('HMGET', P .. 'run:' .. R, 'tenant', 'status', 'created')
    if (tenant == '' or of[1] == tenant) and (status == '' or of[2] == status) and (not after or tonumber(of[3] or 0) > after) then
      local record = record_of(R)
      if record then
        found[#found + 1] = record
        taken = taken + record_bytes(record)
      end
    end
  end
  if #members < STEP then
    return {found, false}
  end
end
