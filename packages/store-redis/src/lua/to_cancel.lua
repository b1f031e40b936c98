-- What a worker is to be told, and was not yet. ARGV: worker, at most so many. Answers `run epoch` of each.
return call('SRANDMEMBER', P .. 'q:cancel:' .. ARGV[2], ARGV[3])
