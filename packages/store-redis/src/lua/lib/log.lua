-- The log of a session: adding entries and marks, and reading entries wherever they are kept.

-- Entries that one XRANGE reads while they are small, and what small means in bytes: a script holds so many of the largest at most.
local READ_TOGETHER = 16
local READ_SMALL = 65536

-- Adds one entry at a position that the caller has checked to be the next. `w` is the append's id, on its first entry.
local function put_entry(life, position, epoch, at, schema, w, body)
  local key, id = P .. 'log:' .. life, num(position) .. '-0'
  if w then
    call('XADD', key, id, 'e', epoch, 't', at, 's', schema, 'w', w, 'b', body)
  else
    call('XADD', key, id, 'e', epoch, 't', at, 's', schema, 'b', body)
  end
end

-- Whether the entry at this position is the first of this very append.
local function wrote(life, position, epoch, w)
  local id = num(position) .. '-0'
  local entry = call('XRANGE', P .. 'log:' .. life, id, id)[1]
  local of = {}
  for n = 1, entry and #entry[2] or 0, 2 do
    of[entry[2][n]] = entry[2][n + 1]
  end
  return of.w == w and of.e == epoch
end

-- Notes that resume begins somewhere else, or that the next gate has another number, from this position on; for forks to come.
local function put_mark(life, at, resume, gate)
  call('ZADD', P .. 'marks:' .. life, at, at .. ':' .. resume .. ':' .. gate)
end

-- Tells those who wait that the log of session `D` has grown.
local function tell_grown(D, head)
  call('PUBLISH', P .. 'h:' .. D, num(head))
end

-- Where the entries of a session are kept, in order, cut off after `upto`: stretches of {above, upto, life}. `anc` and `forked_at`
-- are the fields of its hash, false or nil where it is no fork.
local function parts_of(life, anc, forked_at, upto)
  local parts = {}
  local function add(above, to, from)
    if above < upto then
      parts[#parts + 1] = {above, math.min(to, upto), from}
    end
  end
  if anc then
    for _, part in ipairs(cjson.decode(anc)) do
      add(part[1], part[2], num(part[3]))
    end
  end
  add(tonumber(forked_at or 0), upto, life)
  return parts
end

-- Entries of these parts from `from` on, each as {position, epoch, written at, schema, body}: at most `limit`, and none after
-- the one with which they reach `bytes`. At least one where there is one.
local function read_entries(parts, from, limit, bytes)
  local found, taken, together = {}, 0, 1
  for _, part in ipairs(parts) do
    local first, last, key = math.max(from, part[1] + 1), num(part[2]) .. '-0', P .. 'log:' .. part[3]
    while first <= part[2] do
      local page = call('XRANGE', key, num(first) .. '-0', last, 'COUNT', math.min(together, limit - #found))
      local size = 0
      for _, entry in ipairs(page) do
        local of = {}
        for n = 1, #entry[2], 2 do
          of[entry[2][n]] = entry[2][n + 1]
        end
        local position, again = string.match(entry[1], '^(%d+)-(%d+)$')
        first = tonumber(position) + 1
        -- What somebody added by hand between two entries is none.
        if again == '0' and of.b then
          found[#found + 1] = {position, of.e, of.t, of.s, of.b}
          size = size + #of.b
        end
        if taken + size >= bytes or #found >= limit then
          return found
        end
      end
      if #page == 0 then
        break
      end
      taken = taken + size
      together = size < READ_SMALL and READ_TOGETHER or 1
    end
  end
  return found
end
