-- The stream that counts: one entry for each run that is claimable, one pending entry for each lease. Needs the prelude alone.
--
-- It counts and nothing more: what can be claimed, and in what order, is said by `P q:ready`. So whatever somebody does to the
-- stream by hand, no run is lost by it and no claim fails; the count is put right little by little (lib/tidy.lua).

local STREAM, GROUP = P .. 'q', 'workers'

-- Who reads entries that nobody is to hold.
local NOBODY = 'nobody'

-- Entries of other people's that one step notes. It stops reading then; the next one goes on.
local MAX_FOREIGN = 256

-- Most of an entry that its dead letter quotes, in bytes.
local MAX_QUOTED = 400

-- The record of such an entry has nothing that was asked. Its tenant is that of callers who name none.
local FOREIGN_TENANT = 'default'
local FOREIGN_SPEC = '{"work":{"kind":"prompt","prompt":"(no run: an entry of the queue that Torpor did not write)"},"budget":{}}'

-- One more run is claimable.
local function count_ready(R)
  redis.pcall('XADD', STREAM, '*', 'run', R)
end

-- An entry that was read is done with.
local function acknowledge(id)
  redis.pcall('XACK', STREAM, GROUP, id)
end

-- How many entries nobody has read yet, nil when the server does not know; and the last that somebody has, nil when there is no
-- group.
local function unread()
  local groups = redis.pcall('XINFO', 'GROUPS', STREAM)
  for _, group in ipairs(groups) do
    local of = {}
    for n = 1, #group, 2 do
      of[group[n]] = group[n + 1]
    end
    if of.name == GROUP then
      return of.lag or nil, of['last-delivered-id']
    end
  end
end

-- Whether an entry has the form of ours.
local function is_ours(fields)
  local R = fields[2]
  return #fields == 2 and fields[1] == 'run' and #R >= 1 and #R <= 64 and not string.find(R, '[^%w_]')
end

-- So many entries of other people were noted in this step.
local foreign = 0

-- Somebody else's entry becomes a dead letter, with the record of a run that failed: so it can be seen, and goes like all others.
local function note_foreign(id, fields)
  local R = 'run_' .. string.sub(redis.sha1hex((field(P .. 'meta', 'id') or '') .. P .. id), 1, 32)
  local run, row, at = P .. 'run:' .. R, next_row(), num(now)
  local quoted, length = {}, 0
  for n = 1, #fields do
    if length < MAX_QUOTED then
      quoted[n] = string.gsub(string.sub(fields[n], 1, MAX_QUOTED - length), '[^\32-\126]', '?')
      length = length + #quoted[n] + 1
    end
  end
  local why = 'the queue held an entry that Torpor did not write (' .. id .. '): ' .. table.concat(quoted, ' ')
  call('HSET', run, 'row', num(row), 'tenant', FOREIGN_TENANT, 'session', 'queue entry ' .. id, 'status', 'failed', 'attempts', '0',
    'version', '1', 'created', at, 'ended', at, 'spec', FOREIGN_SPEC, 'dead', why, 'dead_at', at)
  local member = hex16(row) .. ':' .. R
  call('ZADD', P .. 'runs', 0, member)
  call('ZADD', P .. 'runs:t:' .. redis.sha1hex(FOREIGN_TENANT), 0, member)
  call('ZADD', P .. 'dead', num(row), R)
  foreign = foreign + 1
end

-- Reads up to `n` entries that stand for runs; each is pending until it is acknowledged. Fewer when there are fewer: no claim needs
-- one. To be called while the runs that they stand for are still in `P q:ready`, but for `extra` that never were. `runs`, or nil, are
-- some that are there.
local function read_tokens(n, consumer, extra, runs)
  local tokens, read, others, known = {}, 0, 0, {}
  for _, R in ipairs(runs or {}) do
    known[R] = true
  end
  -- An entry may name a run that is gone, because it stands for *a* run. But then there are no more entries than claimable runs.
  local function is_surplus()
    local left = unread()
    return left and left + read - others > call('ZCARD', P .. 'q:ready') + (extra or 0)
  end
  while #tokens < n and foreign < MAX_FOREIGN do
    local page = redis.pcall('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', n - #tokens, 'STREAMS', STREAM, '>')
    local entries = page and not page.err and page[1] and page[1][2] or {}
    if #entries == 0 then
      break
    end
    read = read + #entries
    for _, entry in ipairs(entries) do
      local id, fields = entry[1], entry[2]
      local R = is_ours(fields) and fields[2]
      if R and (known[R] or call('EXISTS', P .. 'run:' .. R) == 1 or not is_surplus()) then
        tokens[#tokens + 1] = id
      else
        note_foreign(id, fields)
        acknowledge(id)
        others = others + 1
      end
    end
  end
  return tokens
end

-- Reads and acknowledges up to `n` entries: so many runs less are claimable. To be called while they still are in `P q:ready`. Answers
-- how many there were.
local function drop_entries(n)
  local before = foreign
  local tokens = read_tokens(n, NOBODY)
  for _, token in ipairs(tokens) do
    acknowledge(token)
  end
  return #tokens + foreign - before
end
