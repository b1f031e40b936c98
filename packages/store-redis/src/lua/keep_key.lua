-- Changes the API keys, if nobody else did since they were read.
-- ARGV: the version that was read (empty for none), the new one, the key's id, the key, ids of keys to be dropped.
-- Answers whether it did.
local meta, keys = P .. 'meta', P .. 'keys'
if (field(meta, 'keys') or '') ~= ARGV[2] then
  return 0
end
for i = 6, #ARGV do
  call('HDEL', keys, ARGV[i])
end
call('HSET', keys, ARGV[4], ARGV[5])
call('HSET', meta, 'keys', ARGV[3])
return 1
