-- The queue: where a run stands, and how it goes from one place to another. Needs stream.
--
-- A run that has not ended is in exactly one place, which its field `q` names: `ready`, `delayed` (until `due`), `leased`, `blocked`
-- (behind the front run of its session) or `paused` (it waits for people). `leave` takes it out of wherever it is; then one of
-- `make_ready`, `make_delayed`, `make_blocked`, `make_paused` and `make_leased` puts it into the next, or `quit` lets it go for good.
--
-- A lease that ended is offered again by the next claim: its run is `ready` then, and keeps `worker` and `epoch` until somebody
-- takes it, so that its owner can come back (`q` says which of the two it is; `epoch` is there as long as the owner may write).

-- Wake-ups that are kept while nobody waits.
local MAX_WAKES = 64

-- So long a worker is told of a cancel, in milliseconds: longer than it may be out of reach and keep its lease.
local TOLD_MS = 600000

local function run_key(R)
  return P .. 'run:' .. R
end

-- Wakes one of those who wait for something to claim.
local function wake()
  local wakes = P .. 'q:wake'
  if call('LLEN', wakes) < MAX_WAKES then
    call('RPUSH', wakes, '1')
  end
end

-- A record changed: those who wait for it look.
local function changed(R)
  local version = redis.pcall('HINCRBY', run_key(R), 'version', 1)
  if type(version) ~= 'number' then
    version = 1 -- what was there is no number
    call('HSET', run_key(R), 'version', '1')
  end
  call('PUBLISH', P .. 'r:' .. R, version)
end

-- Higher priorities first, then the oldest.
local function ready_member(R, pri, row)
  return string.format('%08x', 2147483647 - (tonumber(pri) or 0)) .. hex16(tonumber(row) or 0) .. ':' .. R
end

-- The run that a member of an ordered set names.
local function run_of(member)
  return string.match(member, ':(.*)$')
end

-- Those that interrupt first, then the oldest.
local function blocked_member(R, urgent, row)
  return (urgent == '1' and '0' or '1') .. hex16(tonumber(row) or 0) .. ':' .. R
end

-- Takes a run out of wherever it stands, but for its fields, which still say where that was. Answers its row.
local function take_out(R)
  local q, pri, row, urgent, life, token = unpack(call('HMGET', run_key(R), 'q', 'pri', 'row', 'urgent', 'life', 'token'))
  if q == 'leased' then
    call('ZREM', P .. 'q:leases', R)
    if token then
      acknowledge(token)
      call('HDEL', P .. 'q:tokens', token)
    end
  elseif q == 'ready' then
    drop_entries(1)
    call('ZREM', P .. 'q:ready', ready_member(R, pri, row))
  elseif q == 'delayed' then
    call('ZREM', P .. 'q:delayed', R)
  elseif q == 'blocked' then
    call('ZREM', P .. 'q:blocked:' .. life, blocked_member(R, urgent, row))
    call('HINCRBY', P .. 'meta', 'blocked', -1)
  elseif q == 'paused' then
    call('SREM', P .. 'q:paused', R)
  end
  return row
end

-- Takes a run out of wherever it stands.
local function leave(R)
  take_out(R)
  call('HDEL', run_key(R), 'q', 'token')
end

-- It can be claimed from now on; its field `q` is to say so.
local function line_up(R, member)
  call('ZADD', P .. 'q:ready', 0, member)
  count_ready(R)
  wake()
end

-- It can be claimed from now on.
local function make_ready(R)
  local pri, row = unpack(call('HMGET', run_key(R), 'pri', 'row'))
  call('HSET', run_key(R), 'q', 'ready')
  line_up(R, ready_member(R, pri, row))
end

-- It can be claimed when its time has come.
local function make_delayed(R, due)
  call('ZADD', P .. 'q:delayed', num(due), R)
  call('HSET', run_key(R), 'q', 'delayed', 'due', num(due))
end

-- It can be claimed now, or when its time has come. Answers whether that is now.
local function make_waiting(R, due)
  if due > now then
    make_delayed(R, due)
    return false
  end
  make_ready(R)
  return true
end

-- It waits behind the front run of its session; its fields `life`, `row` and `urgent` are there.
local function make_blocked(R, life, row, urgent)
  call('ZADD', P .. 'q:blocked:' .. life, 0, blocked_member(R, urgent, row))
  call('HINCRBY', P .. 'meta', 'blocked', 1)
  call('HSET', run_key(R), 'q', 'blocked')
end

-- It waits for people.
local function make_paused(R)
  call('SADD', P .. 'q:paused', R)
  call('HSET', run_key(R), 'q', 'paused')
end

-- Reads an entry for each of these runs, which are about to be leased and still in `P q:ready`; fewer where the stream is spoilt.
local function tokens_for(runs, worker)
  local tokens = read_tokens(#runs, worker, 0, runs)
  local missing = #runs - #tokens
  for n = 1, missing do
    count_ready(runs[n]) -- there was one less than there should be
  end
  for _, token in ipairs(missing > 0 and read_tokens(missing, worker, missing, runs) or {}) do
    tokens[#tokens + 1] = token
  end
  return tokens
end

-- An entry that was read stands for the lease of a run.
local function hold_token(R, token)
  if token then
    call('HSET', run_key(R), 'token', token)
    call('HSET', P .. 'q:tokens', token, R)
  end
end

-- Somebody owns it. `token` is an entry that was read for it, or nil.
local function make_leased(R, worker, epoch, lease, token)
  call('ZADD', P .. 'q:leases', num(now + lease), R)
  call('HSET', run_key(R), 'q', 'leased', 'worker', worker, 'epoch', epoch)
  hold_token(R, token)
end

-- Its owner, if it has one, owns it no more and may not come back. The run is where it is.
local function disown(R, D)
  call('HDEL', run_key(R), 'worker', 'epoch')
  call('HSET', P .. 's:' .. D, 'owned', '0')
end

-- The owner of a run hears that it is to be cancelled, if it has one; also one whose lease ended: it may come back.
local function tell_owner(R)
  local worker, epoch = unpack(call('HMGET', run_key(R), 'worker', 'epoch'))
  if worker and epoch then
    local told = P .. 'q:cancel:' .. worker
    call('SADD', told, R .. ' ' .. epoch)
    call('PEXPIRE', told, TOLD_MS)
    call('PUBLISH', P .. 'c:' .. worker, R)
  end
end

-- A run joins the queue: it is listed among those that have not ended, and counted.
local function join(R, row)
  call('ZADD', P .. 'runs:open', 0, hex16(tonumber(row)) .. ':' .. R)
  call('HINCRBY', P .. 'meta', 'queued', 1)
end

-- The record of a new run is found in the lists of all, of its tenant and of its session.
local function list_run(R, row, tenant, life)
  local member = hex16(tonumber(row)) .. ':' .. R
  call('ZADD', P .. 'runs', 0, member)
  call('ZADD', P .. 'runs:t:' .. redis.sha1hex(tenant), 0, member)
  call('SADD', P .. 'runs:l:' .. life, R)
end

-- A run leaves the queue for good.
local function quit(R)
  local row = take_out(R)
  call('ZREM', P .. 'runs:open', hex16(tonumber(row) or 0) .. ':' .. R)
  call('HDEL', run_key(R), 'q', 'token', 'pri', 'due', 'urgent', 'worker', 'epoch')
  call('HINCRBY', P .. 'meta', 'queued', -1)
end

-- A run leaves the queue for good. If it was the front one of session `D`, the next of the session takes its place.
local function hand_on(R, D)
  local session = P .. 's:' .. D
  quit(R)
  local front, life, updated = unpack(call('HMGET', session, 'front', 'life', 'updated'))
  if front ~= R then
    return
  end
  call('HSET', session, 'owned', '0')
  local blocked = P .. 'q:blocked:' .. life
  local member = call('ZRANGE', blocked, 0, 0)[1]
  if not member then
    call('HDEL', session, 'front')
    call('ZADD', P .. 'sessions:idle', updated, D)
    return
  end
  call('ZREM', blocked, member)
  call('HINCRBY', P .. 'meta', 'blocked', -1)
  local following = run_of(member)
  call('HSET', session, 'front', following)
  make_waiting(following, numeric(run_key(following), 'due'))
end
