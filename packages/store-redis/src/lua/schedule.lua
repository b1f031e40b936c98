-- What is kept of one schedule. ARGV: its name. Answers the time, and the state or nothing.
return {num(now), field(P .. 'schedules', ARGV[2]) or false}
