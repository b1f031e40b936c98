-- Keeping the stream true and short: once in a while, and bounded. Needs stream and queue.
--
-- In a store that only Torpor writes, the counts are always true, and all there is to do is to cut off what was read and to
-- forget consumers that are gone. The rest is for streams that somebody changed by hand.

-- So often at most, in milliseconds.
local TIDY_MS = 1000

-- Entries that one step adds, reads or acknowledges.
local MAX_TIDIED = 1000

-- Entries that one step cuts off, and consumers that it removes.
local MAX_CUT, MAX_GONE = 100000, 100

-- Everything was read, whatever the server thinks: somebody cut off or deleted entries that nobody had read.
local function all_read()
  local stream = {}
  local info = call('XINFO', 'STREAM', STREAM)
  for n = 1, #info, 2 do
    stream[info[n]] = info[n + 1]
  end
  redis.pcall('XGROUP', 'SETID', STREAM, GROUP, '$', 'ENTRIESREAD', stream['entries-added'])
end

-- The entries that nobody has read are as many as the claimable runs. Where there are more, they are looked at: strangers are noted.
local function count_again(ready, left)
  if not left or left > ready then
    local most = math.min(left or MAX_TIDIED, MAX_TIDIED)
    if drop_entries(most) < most and foreign < MAX_FOREIGN then
      all_read()
    end
    left = unread()
  end
  if left and left < ready then
    for _, member in ipairs(call('ZRANGE', P .. 'q:ready', 0, math.min(ready - left, MAX_TIDIED) - 1)) do
      count_ready(run_of(member))
    end
  end
end

-- The pending entries are those of leases. What somebody read by hand is none, and what somebody acknowledged is missing.
local function match_leases(pending)
  local tokens = P .. 'q:tokens'
  local held, leases = call('HLEN', tokens), call('ZCARD', P .. 'q:leases')
  if pending == held and held == leases then
    return
  end
  for _, entry in ipairs(call('XPENDING', STREAM, GROUP, '-', '+', MAX_TIDIED)) do
    local id = entry[1]
    local R = field(tokens, id)
    if not R or field(run_key(R), 'token') ~= id then
      local stored = call('XRANGE', STREAM, id, id)[1]
      if stored and not is_ours(stored[2]) then
        note_foreign(id, stored[2])
      end
      acknowledge(id)
      call('HDEL', tokens, id)
    end
  end
  -- Owners renew their leases, so that others are the first next time.
  for _, R in ipairs(call('ZRANGE', P .. 'q:leases', 0, MAX_TIDIED - 1)) do
    local worker, token = unpack(call('HMGET', run_key(R), 'worker', 'token'))
    if token and #call('XPENDING', STREAM, GROUP, token, token, 1) == 0 then
      call('HDEL', tokens, token)
      token = false
    end
    if worker and not token then
      count_ready(R)
      hold_token(R, read_tokens(1, worker, 1)[1])
    end
  end
end

-- Consumers that have been silent for `idle` milliseconds and hold nothing go.
local function forget_consumers(idle)
  local gone = 0
  for _, consumer in ipairs(call('XINFO', 'CONSUMERS', STREAM, GROUP)) do
    local of = {}
    for n = 1, #consumer, 2 do
      of[consumer[n]] = consumer[n + 1]
    end
    if of.pending == 0 and of.idle > idle and gone < MAX_GONE then
      call('XGROUP', 'DELCONSUMER', STREAM, GROUP, of.name)
      gone = gone + 1
    end
  end
end

-- Makes the stream true and short again, if that was not done just before.
local function tidy(idle)
  local meta = P .. 'meta'
  local last = numeric(meta, 'tidied')
  if now >= last and now < last + TIDY_MS then
    return
  end
  call('HSET', meta, 'tidied', num(now))
  local left, delivered = unread()
  if not delivered then
    redis.pcall('XGROUP', 'CREATE', STREAM, GROUP, '0', 'MKSTREAM')
    left, delivered = unread()
    if not delivered then
      return -- the key is something else: there is nothing to count with, and nothing but the count is lost
    end
  end
  count_again(call('ZCARD', P .. 'q:ready'), left)
  match_leases(call('XPENDING', STREAM, GROUP)[1])
  local _, read_last = unread()
  local pending = call('XPENDING', STREAM, GROUP)[2]
  -- Never from the middle: the server would not know its count any more.
  call('XTRIM', STREAM, 'MINID', '~', pending or read_last, 'LIMIT', MAX_CUT)
  forget_consumers(idle)
end
