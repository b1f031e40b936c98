-- Asks for a run to be ended. Answers nothing when there is none, or whether it has ended or was asked to, and its record. ARGV: run.
local what = cancel_run(ARGV[2])
if not what then
  return {}
end
return {what, record_of(ARGV[2])}
