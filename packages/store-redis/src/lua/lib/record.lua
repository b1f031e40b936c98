-- The record of a run, as the program reads it (`record.rs`). Needs gates and hooks.

local RECORD = {'row', 'tenant', 'session', 'status', 'attempts', 'version', 'created', 'started', 'ended', 'from', 'spec', 'wishes',
  'tp', 'ts', 'dead', 'webhook', 'life', 'at', 'redrive_of', 'redriven', 'files'}

-- Everything that a record holds, or nil where there is none: the run's id and fields, the entry that ended it, the gates that it
-- waits for, how the latest message about it stands, of webhooks and of files, and which run's work it does or
-- which one does its own; false for each that there is not.
local function record_of(R)
  local of = call('HMGET', P .. 'run:' .. R, unpack(RECORD))
  if not of[1] then
    return nil
  end
  local status, webhook, life, at = of[4], of[16], of[17], of[18]
  local ending, gates = false, false
  if life and at then
    local entry = call('XRANGE', P .. 'log:' .. life, at .. '-0', at .. '-0')[1]
    local fields = entry and entry[2] or {}
    ending = {false, false}
    for n = 1, #fields, 2 do
      if fields[n] == 's' then
        ending[1] = fields[n + 1]
      elseif fields[n] == 'b' then
        ending[2] = fields[n + 1]
      end
    end
  end
  if status == 'paused' then
    gates = pending_gates(R)
  end
  return {R, of[1], of[2], of[3], status, of[5], of[6], of[7], of[8], of[9], of[10], of[11], of[12], of[13], of[14], of[15],
    ending, gates, webhook and standing(R, 'webhook'), of[21] and standing(R, 'files'), of[19], of[20]}
end

-- So many bytes of a record may be large.
local function record_bytes(record)
  local bytes = #(record[12] or '') + (record[17] and #(record[17][2] or '') or 0)
  for _, gate in ipairs(record[18] or {}) do
    bytes = bytes + #(gate[2] or '')
  end
  return bytes
end
