-- Sessions that may be idle since then, the longest first. ARGV: since when (ms), most of them.
return call('ZRANGEBYSCORE', P .. 'sessions:idle', '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
