-- Makes the shard if it is new: its facts, and the queue's stream with its group, before anything is added to it.
-- ARGV: layout, shards, a fresh store id. Answers what is there.
local meta = P .. 'meta'
if not field(meta, 'layout') then
  call('HSET', meta, 'layout', ARGV[2], 'shards', ARGV[3], 'id', ARGV[4])
end
if call('EXISTS', P .. 'q') == 0 then
  call('XGROUP', 'CREATE', P .. 'q', 'workers', '0', 'MKSTREAM')
end
return {field(meta, 'layout'), field(meta, 'shards'), field(meta, 'id')}
