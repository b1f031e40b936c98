-- What a step needs to know that gives a run to an owner. Needs the prelude alone.

-- Epochs that one session may use up within a second, so that those of two seconds never meet.
local EPOCHS_A_SECOND = 1048576

-- Above this lie the epochs of new owners. Looks first whether the server is the process that it was before, and was not promoted
-- since (the same process may have been primary, behind another one, and primary again): if not, the store may be older than what
-- owners know, so nothing that was given out since may be given out again; and for one lease nobody takes a lease over, because its
-- owner could not renew it while there was no server. Answers until when as well.
local function owner_floor(lease)
  local meta = P .. 'meta'
  local before, floor, grace = unpack(call('HMGET', meta, 'server', 'floor', 'grace'))
  floor, grace = tonumber(floor or 0), tonumber(grace or 0)
  local info = redis.pcall('INFO', 'server', 'replication') -- a user who may not ask goes without
  local process = type(info) == 'string' and string.match(info, 'run_id:(%w+)')
  local server = process and process .. (string.match(info, 'master_replid:(%w+)') or '')
  if server and server ~= before then
    call('HSET', meta, 'server', server)
    if before then
      floor, grace = math.max(floor, math.floor(now / 1000) * EPOCHS_A_SECOND), now + lease
      call('HSET', meta, 'floor', num(floor), 'grace', num(grace))
    end
  end
  return floor, grace
end
