-- Sets runs aside that the program claimed and cannot read. ARGV: of each run, its id, the epoch of its lease, and what is wrong.
for n = 2, #ARGV, 3 do
  local R, epoch, why = ARGV[n], ARGV[n + 1], ARGV[n + 2]
  if field(run_key(R), 'epoch') == epoch then
    set_aside(R, why)
  end
end
return 1
