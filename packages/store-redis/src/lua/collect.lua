-- Removes some of what nobody can reach. ARGV: most entries. Answers whether there may be more.
local most = tonumber(ARGV[2])
local garbage = P .. 'garbage'

-- Imports that one step gives up.
local MAX_LAPSED = 100

for _, life in ipairs(call('ZRANGEBYSCORE', P .. 'staged', '-inf', num(now), 'LIMIT', 0, MAX_LAPSED)) do
  call('ZREM', P .. 'staged', life)
  call('ZADD', garbage, 'LT', 0, life)
end
local life, above = unpack(call('ZRANGE', garbage, 0, 0, 'WITHSCORES'))
if not life then
  return 0
end
if tonumber(above) == 0 then
  -- The server frees the memory beside its work.
  call('UNLINK', P .. 'log:' .. life, P .. 'marks:' .. life)
  call('ZREM', garbage, life)
  return 1
end
local log, ids = P .. 'log:' .. life, {}
for n, entry in ipairs(call('XREVRANGE', log, '+', num(above + 1) .. '-0', 'COUNT', most)) do
  ids[n] = entry[1]
end
if #ids > 0 then
  call('XDEL', log, unpack(ids))
end
if #ids < most then
  call('ZREMRANGEBYSCORE', P .. 'marks:' .. life, '(' .. above, '+inf')
  call('ZREM', garbage, life)
end
return 1
