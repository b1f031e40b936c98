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

local ready, delayed, leases, gates = P .. 'q:ready', P .. 'q:delayed', P .. 'q:leases', P .. 'gates:due'
local floor, grace = owner_floor(lease)
tidy(lease * SILENT_LEASES)

local function offer(from)
  for _, R in ipairs(call('ZRANGEBYSCORE', from, '-inf', num(now), 'LIMIT', 0, MAX_OFFERED)) do
    leave(R)
    call('ZREM', from, R) -- also one that does not know where it is
    make_ready(R)
  end
end

-- Puts those in line whose time has come. When it comes for the next of them is what a claim that finds nothing waits for.
local next_due
for _, from in ipairs({delayed, gates, leases}) do
  local earliest = from == leases and grace or 0
  local function due()
    local first = tonumber(call('ZRANGE', from, 0, 0, 'WITHSCORES')[2])
    return first and math.max(first, earliest)
  end
  local first = due()
  if first and first <= now then
    if from == gates then
      expire_gates(MAX_OFFERED)
    else
      offer(from)
    end
    first = due()
  end
  next_due = first and math.min(first, next_due or first) or next_due
end

-- The first in line; and what cannot be claimed, with the reason.
local function look(n)
  local good, bad = {}, {}
  for _, member in ipairs(call('ZRANGE', ready, 0, n - 1)) do
    local R = run_of(member)
    local q, row, d, status, version, attempts, started, from, cancel =
      unpack(call('HMGET', run_key(R), 'q', 'row', 'd', 'status', 'version', 'attempts', 'started', 'from', 'cancel'))
    local epoch, head, resume, gate, progressed, born =
      unpack(call('HMGET', P .. 's:' .. (d or ''), 'epoch', 'head', 'resume', 'gate', 'progressed', 'born'))
    if q ~= 'ready' or not row then
      bad[#bad + 1] = {member, R}
    elseif status ~= 'queued' and status ~= 'running' then
      bad[#bad + 1] = {member, R, 'run ' .. R .. ': its status is not known to this build'}
    elseif not (tonumber(version) and tonumber(attempts) and tonumber(epoch) and tonumber(head)) then
      bad[#bad + 1] = {member, R, 'run ' .. R .. ': its record or its session is damaged'}
    else
      good[#good + 1] = {member = member, R = R, d = d, version = num(version + 1), started = started, from = from, cancel = cancel,
        born = born, resume = resume, gate = gate, head = tonumber(head), epoch = num(math.max(tonumber(epoch), floor) + 1),
        attempts = progressed == '1' and 1 or attempts + 1}
    end
  end
  return good, bad
end

local function give_up(bad, aside)
  for _, it in ipairs(bad) do
    local member, R, why = unpack(it)
    if why then
      set_aside(R, why)
    else
      drop_entries(1)
    end
    call('ZREM', ready, member)
    aside[#aside + 1] = why or 'run ' .. R .. ': it has no record'
  end
end

local taken, aside, bytes = {}, {}, 0
local function take(good)
  local runs = {}
  for n, it in ipairs(good) do
    runs[n] = it.R
  end
  local tokens = tokens_for(runs, worker)
  local members, ends, held = {}, {}, {}
  for n, it in ipairs(good) do
    local token = tokens[n]
    if bytes >= MAX_BYTES then
      -- The answer is full: it stays in line.
      if token then
        acknowledge(token)
        count_ready(it.R)
      end
    else
      local fields = {'q', 'leased', 'worker', worker, 'epoch', it.epoch, 'status', 'running', 'attempts', num(it.attempts),
        'started', it.started or num(now), 'from', it.from or num(it.head + 1), 'version', it.version}
      if token then
        fields[#fields + 1], fields[#fields + 2] = 'token', token
        held[#held + 1], held[#held + 2] = token, it.R
      end
      members[n], ends[2 * n - 1], ends[2 * n] = it.member, num(now + lease), it.R
      call('HSET', P .. 's:' .. it.d, 'epoch', it.epoch, 'owned', '1', 'progressed', '0')
      call('HSET', run_key(it.R), unpack(fields))
      call('PUBLISH', P .. 'r:' .. it.R, it.version)
      local record = record_of(it.R)
      bytes = bytes + record_bytes(record)
      taken[#taken + 1] = {it.R, it.epoch, num(it.head), it.resume, it.gate, it.cancel, it.born, record}
    end
  end
  call('ZREM', ready, unpack(members))
  call('ZADD', leases, unpack(ends))
  if #held > 0 then
    call('HSET', P .. 'q:tokens', unpack(held))
  end
  next_due = math.min(now + lease, next_due or now + lease)
end

while #taken < most and #aside < MAX_SET_ASIDE and bytes < MAX_BYTES do
  local good, bad = look(most - #taken)
  give_up(bad, aside)
  if #good > 0 then
    take(good)
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
return {num(now), next_due and num(next_due) or '', more and 1 or 0, foreign, taken, aside}
