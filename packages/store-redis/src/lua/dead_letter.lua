-- Notes that a run was given up. Answers nothing when there is no such run. ARGV: run, why.
if call('EXISTS', P .. 'run:' .. ARGV[2]) == 0 then
  return {}
end
note_dead(ARGV[2], ARGV[3])
return {1}
