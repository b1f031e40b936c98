-- A worker has been told. ARGV: worker, and `run epoch` of each.
for n = 3, #ARGV do
  call('SREM', P .. 'q:cancel:' .. ARGV[2], ARGV[n])
end
return 1
