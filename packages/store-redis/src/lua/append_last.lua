-- Appends entries that end their run or let it wait for people, with all that this means. ARGV and answer: lib/append.lua.
local answer, front = append_entries()
if not front then
  return answer
end
local at, status, ended_at = ARGV[6], ARGV[13], ARGV[14]
if status ~= '' then
  settle(front, status, tonumber(ended_at))
end
local gates, question = tonumber(ARGV[GATES]), FIRST_MARK + 3 * tonumber(ARGV[15])
if gates > 0 then
  local asked = {}
  for n = 0, gates - 1 do
    local expires = ARGV[question + 2 * n + 1]
    asked[n + 1] = {gate = num(tonumber(ARGV[FIRST_GATE]) + n), question = ARGV[question + 2 * n], expires = expires ~= '' and expires or nil}
  end
  park(front, asked, at)
end
return answer
