-- Messages: webhooks, and orders to write files. Each is stored in the step in which what it tells of happens. Needs the
-- prelude alone.
--
-- The body is made here, because only the script knows what happened and when. Its form is the core's `Event::body`; a
-- test holds the two together.

-- The channels: the field of a run that holds its target, the keys that begin with this name, and where news of it is told.
local CHANNELS = {{name = 'webhook', queue = 'hooks', news = 'x'}, {name = 'files', queue = 'files', news = 'f'}}

-- The channel with this name.
local function channel_of(name)
  return name == 'files' and CHANNELS[2] or CHANNELS[1]
end

-- A time as people write it: 2026-11-20T11:21:29.999Z.
local function rfc3339(ms)
  if ms >= 253402300800000 then
    return num(ms) .. 'ms' -- past the year 9999
  end
  local days, rest = math.floor(ms / 86400000), ms % 86400000
  -- Days since 1 March of the year 0, in eras of 400 years: there the leap day is the last one of a year.
  local z = days + 719468
  local era = math.floor(z / 146097)
  local day = z - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  local of_year = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local mp = math.floor((5 * of_year + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year + era * 400 + (month <= 2 and 1 or 0), month,
    of_year - math.floor((153 * mp + 2) / 5) + 1, math.floor(rest / 3600000), math.floor(rest / 60000) % 60,
    math.floor(rest / 1000) % 60, rest % 1000)
end

-- An id as a JSON string. Ids hold no control characters.
local function quoted(text)
  return '"' .. string.gsub(text, '[\\"]', '\\%0') .. '"'
end

-- Posts it on one channel.
local function post_on(channel, target, of, R, kind, status, gate, at)
  local tenant, session = of[1], of[2]
  -- Ids ascend, so that of messages that are due at the same time the older one goes first, and name their shard.
  local shard = tonumber(string.match(P, '{(%d+)}:$'))
  local id = string.format('msg_%s%04x%s', hex16(next_row()), shard, string.sub(redis.sha1hex(R), 1, 12))
  local body = '{"id":"' .. id .. '","type":"' .. kind .. '","createdAt":"' .. rfc3339(now) .. '","data":{"runId":"' .. R
    .. '","sessionId":' .. quoted(session) .. ',"tenant":' .. quoted(tenant) .. ',"status":"' .. status .. '"'
    .. (gate and ',"gateId":' .. num(gate) or '') .. '}}'
  call('HSET', P .. 'hook:' .. id, 'run', R, 'tenant', tenant, 'channel', channel.name, 'kind', kind, 'target', target, 'body', body,
    'at', at and num(at) or '', 'state', 'pending', 'attempts', '0', 'created', num(now))
  call('ZADD', P .. channel.queue, num(now), id)
  call('LPUSH', P .. channel.queue .. ':' .. R, id)
  call('PUBLISH', P .. channel.news, id)
end

-- Posts what happened to a run to whoever wants to be told. `gate` is the first one that waits, or the one that was decided, or
-- nil; `at` where in the log the run's end stands, or nil. Verdicts are no news for webhooks.
local function post(R, kind, status, gate, at)
  local of = call('HMGET', P .. 'run:' .. R, 'tenant', 'session', 'webhook', 'files')
  if not (of[1] and of[2]) then
    return
  end
  for n, channel in ipairs(CHANNELS) do
    if of[n + 2] and (kind ~= 'gate.decided' or channel.name == 'files') then
      post_on(channel, of[n + 2], of, R, kind, status, gate, at)
    end
  end
end

-- How the latest message about a run on a channel stands, for its record: kind, state, attempts, last status, last error. Or false.
local function standing(R, channel)
  local id = call('LINDEX', P .. channel_of(channel).queue .. ':' .. R, 0)
  return id and call('HMGET', P .. 'hook:' .. id, 'kind', 'state', 'attempts', 'status', 'error') or false
end

-- Messages of a channel that are due or being sent.
local function messages_due(channel)
  local queue = P .. channel_of(channel).queue
  return call('ZCOUNT', queue, '-inf', num(now)) + call('ZCOUNT', queue .. ':leased', '(' .. num(now), '+inf')
end

-- How long it is until the next message of a channel is due or the next claim ends, in milliseconds; '' when there is none.
local function until_next_message(channel)
  local first = call('ZRANGE', P .. channel_of(channel).queue, 0, 0, 'WITHSCORES')[2]
  return first and num(math.max(tonumber(first) - now, 0)) or ''
end

-- A run's record goes; what is still to be sent stays.
local function forget_messages(R)
  for _, channel in ipairs(CHANNELS) do
    local of_run = P .. channel.queue .. ':' .. R
    for _, id in ipairs(call('LRANGE', of_run, 0, -1)) do
      if field(P .. 'hook:' .. id, 'state') ~= 'pending' then
        call('DEL', P .. 'hook:' .. id)
      end
    end
    call('DEL', of_run)
  end
end
