-- Webhooks: a message is stored in the step in which what it tells of happens. Needs the prelude alone.
--
-- The body is made here, because only the script knows what happened and when. Its form is the core's `Event::body`; a
-- test holds the two together.

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

-- Posts what happened to a run, if it wants somebody to be told. `gate` is the first one that waits, or nil.
local function post_webhook(R, kind, status, gate)
  local run = P .. 'run:' .. R
  local tenant, session, target = unpack(call('HMGET', run, 'tenant', 'session', 'webhook'))
  if not (tenant and session and target) then
    return
  end
  -- Ids ascend, so that of messages that are due at the same time the older one goes first, and name their shard.
  local shard = tonumber(string.match(P, '{(%d+)}:$'))
  local id = string.format('msg_%s%04x%s', hex16(next_row()), shard, string.sub(redis.sha1hex(R), 1, 12))
  local body = '{"id":"' .. id .. '","type":"' .. kind .. '","createdAt":"' .. rfc3339(now) .. '","data":{"runId":"' .. R
    .. '","sessionId":' .. quoted(session) .. ',"tenant":' .. quoted(tenant) .. ',"status":"' .. status .. '"'
    .. (gate and ',"gateId":' .. num(gate) or '') .. '}}'
  call('HSET', P .. 'hook:' .. id, 'run', R, 'tenant', tenant, 'kind', kind, 'target', target, 'body', body,
    'state', 'pending', 'attempts', '0', 'created', num(now))
  call('ZADD', P .. 'hooks', num(now), id)
  call('LPUSH', P .. 'hooks:' .. R, id)
  call('PUBLISH', P .. 'x', id)
end

-- How the latest message about a run stands, for its record: kind, state, attempts, last status, last error. Or nil.
local function webhook_standing(R)
  local id = call('LINDEX', P .. 'hooks:' .. R, 0)
  return id and call('HMGET', P .. 'hook:' .. id, 'kind', 'state', 'attempts', 'status', 'error') or nil
end

-- Messages that are due or being sent.
local function webhooks_due()
  return call('ZCOUNT', P .. 'hooks', '-inf', num(now)) + call('ZCOUNT', P .. 'hooks:leased', '(' .. num(now), '+inf')
end

-- How long it is until the next message is due or the next claim ends, in milliseconds; '' when there is none.
local function until_next_webhook()
  local first = call('ZRANGE', P .. 'hooks', 0, 0, 'WITHSCORES')[2]
  return first and num(math.max(tonumber(first) - now, 0)) or ''
end

-- A run's record goes; what is still to be sent stays.
local function forget_webhooks(R)
  for _, id in ipairs(call('LRANGE', P .. 'hooks:' .. R, 0, -1)) do
    if field(P .. 'hook:' .. id, 'state') ~= 'pending' then
      call('DEL', P .. 'hook:' .. id)
    end
  end
  call('DEL', P .. 'hooks:' .. R)
end
