-- Takes what a worker is to be told. ARGV: worker, at most so many. Answers `run epoch` of each.
return call('SPOP', P .. 'q:cancel:' .. ARGV[2], ARGV[3])
