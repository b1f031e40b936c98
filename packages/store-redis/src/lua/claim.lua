-- Claims up to so many runs, the first in line first, after everything whose time has come was put in line. Answers the time; when
-- more becomes claimable by the passing of time alone, or ''; whether there is more now; how many entries of other people were
-- noted; the leases; and what was wrong with runs that were set aside.
-- ARGV: worker, most runs, lease.
local worker, most, lease = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

-- Runs that are put in line by one step, of each kind; and that one step sets aside.
local MAX_OFFERED, MAX_SET_ASIDE = 256, 256

-- An answer ends with the run with which it reaches so many bytes.
local MAX_BYTES = 4194304

-- Consumers that hold nothing are forgotten when they have been silent for so many leases.
local SILENT_LEASES = 10

local ready, delayed, leases = P .. 'q:ready', P .. 'q:delayed', P .. 'q:leases'
local floor = owner_floor(lease)
local grace = numeric(P .. 'meta', 'grace')
tidy(lease * SILENT_LEASES)

-- Those whose time has come.
local function offer(from)
  for _, R in ipairs(call('ZRANGEBYSCORE', from, '-inf', num(now), 'LIMIT', 0, MAX_OFFERED)) do
    leave(R)
    call('ZREM', from, R) -- also one that does not know where it is
    make_ready(R)
  end
end
offer(delayed)
expire_gates(MAX_OFFERED)
if now >= grace then
  offer(leases)
end

-- The first in line: {member, run, session, its fields}; and what cannot be claimed, with the reason.
local function look(n)
  local good, bad = {}, {}
  for _, member in ipairs(call('ZRANGE', ready, 0, n - 1)) do
    local R = run_of(member)
    local q, row, d, attempts, started, from, cancel =
      unpack(call('HMGET', run_key(R), 'q', 'row', 'd', 'attempts', 'started', 'from', 'cancel'))
    local epoch, head, resume, gate, progressed =
      unpack(call('HMGET', P .. 's:' .. (d or ''), 'epoch', 'head', 'resume', 'gate', 'progressed'))
    if q ~= 'ready' or not row then
      bad[#bad + 1] = {member, R}
    elseif not (tonumber(attempts) and tonumber(epoch) and tonumber(head)) then
      bad[#bad + 1] = {member, R, 'its record or its session is damaged'}
    else
      good[#good + 1] = {member = member, R = R, d = d, started = started, from = from, cancel = cancel, resume = resume, gate = gate,
        head = tonumber(head), epoch = math.max(tonumber(epoch), floor) + 1,
        attempts = progressed == '1' and 1 or tonumber(attempts) + 1}
    end
  end
  return good, bad
end

local function take(it, token)
  local run = run_key(it.R)
  call('ZREM', ready, it.member)
  call('HSET', P .. 's:' .. it.d, 'epoch', num(it.epoch), 'owned', '1', 'progressed', '0')
  call('HSET', run, 'status', 'running', 'attempts', num(it.attempts), 'started', it.started or num(now),
    'from', it.from or num(it.head + 1))
  make_leased(it.R, worker, num(it.epoch), lease, token)
  changed(it.R)
end

local taken, aside, bytes = {}, {}, 0
while #taken < most and #aside < MAX_SET_ASIDE and bytes < MAX_BYTES do
  local good, bad = look(most - #taken)
  for _, it in ipairs(bad) do
    local member, R, why = unpack(it)
    if why then
      set_aside(R, why)
    else
      drop_entries(1)
    end
    call('ZREM', ready, member)
    aside[#aside + 1] = R .. ': ' .. (why or 'it has no record')
  end
  for n, it in ipairs(good) do
    if bytes >= MAX_BYTES then
      break
    end
    take(it, token_for(it.R, worker))
    local record = record_of(it.R)
    bytes = bytes + record_bytes(record)
    taken[#taken + 1] = {it.R, num(it.epoch), num(it.head), it.resume, it.gate, it.cancel, record}
  end
  if #bad == 0 then
    break
  end
end

-- Wake-ups that are left over are for nothing when nothing is left.
local more = call('ZCARD', ready) > 0
if more then
  wake()
else
  call('DEL', P .. 'q:wake')
end
local due
for _, from in ipairs({delayed, leases, P .. 'gates:due'}) do
  local first = tonumber(call('ZRANGE', from, 0, 0, 'WITHSCORES')[2])
  if first and from == leases then
    first = math.max(first, grace)
  end
  due = first and math.min(first, due or first) or due
end
return {num(now), due and num(due) or '', more and 1 or 0, foreign, taken, aside}
