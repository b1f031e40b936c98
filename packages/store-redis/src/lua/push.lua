-- Keeps the next entries of an import. ARGV: life, for how long (ms), how many marks; of each mark its position, where resume begins and the
-- next gate; of each entry its position, epoch, when it was written (ms), schema and body. Answers whether the import is still there.
local life, marks = ARGV[2], tonumber(ARGV[4])
if not call('ZSCORE', P .. 'staged', life) then
  return 0
end
local first_entry = 5 + 3 * marks
for n = 5, first_entry - 1, 3 do
  put_mark(life, ARGV[n], ARGV[n + 1], ARGV[n + 2])
end
for n = first_entry, #ARGV, 5 do
  put_entry(life, tonumber(ARGV[n]), ARGV[n + 1], ARGV[n + 2], ARGV[n + 3], nil, ARGV[n + 4])
end
call('ZADD', P .. 'staged', num(now + ARGV[3]), life)
return 1
