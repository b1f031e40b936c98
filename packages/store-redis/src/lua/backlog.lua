-- Counts every run once: ready, waiting, leased, paused, dead letters; and the messages of each channel.
local meta = P .. 'meta'
local grace, blocked = unpack(call('HMGET', meta, 'grace', 'blocked'))
local function until_now(key)
  return call('ZCOUNT', key, '-inf', num(now))
end
local due, decided = until_now(P .. 'q:delayed'), gates_due()
local ended = now >= tonumber(grace or 0) and until_now(P .. 'q:leases') or 0
return {
  call('ZCARD', P .. 'q:ready') + due + ended + decided,
  call('ZCARD', P .. 'q:delayed') - due + tonumber(blocked or 0),
  call('ZCARD', P .. 'q:leases') - ended,
  math.max(call('SCARD', P .. 'q:paused') - decided, 0),
  call('ZCARD', P .. 'dead'), -- of runs that have ended: one that has not is counted where it stands
  messages_due('webhook'),
  messages_due('files'),
}
