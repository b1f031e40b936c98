-- Renews leases; answers those that are not this worker's, by number. ARGV: worker, lease, and of each lease the run and the epoch.
local worker, lease = ARGV[2], tonumber(ARGV[3])
local lost = {}
for n = 4, #ARGV, 2 do
  local R, epoch = ARGV[n], ARGV[n + 1]
  local q, owner, current, pri, row = unpack(call('HMGET', run_key(R), 'q', 'worker', 'epoch', 'pri', 'row'))
  local mine = owner == worker and current == epoch
  if mine and q == 'leased' then
    call('ZADD', P .. 'q:leases', num(now + lease), R)
  elseif mine and q == 'ready' then
    -- It had ended and was offered to others, and nobody took it.
    local token = tokens_for({R}, worker)[1]
    call('ZREM', P .. 'q:ready', ready_member(R, pri, row))
    make_leased(R, worker, epoch, lease, token)
  else
    lost[#lost + 1] = (n - 4) / 2
  end
end
return {lost}
