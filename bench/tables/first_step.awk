# Seconds of the first step, from a run's metrics.jsonl (no space after the colons there).
{ gsub(/":/, "\": ") }
field("step") == 1 && field("tokens_per_s") != "" { printf "%.4f", 16 * 256 / field("tokens_per_s"); exit }
