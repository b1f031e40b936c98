-- Begins an import: its entries are to be kept under a life of their own that nobody sees. ARGV: session, for how long (ms).
-- Answers why not, in one word; or `staged` and the life.
if refused(ARGV[2]) then
  return {refused(ARGV[2])}
end
local life = num(next_number('life'))
call('ZADD', P .. 'staged', num(now + ARGV[3]), life)
return {'staged', life}
