#!/bin/bash
# The benchmarks' programs and tables on the smallest work there is: that they run, take turns, leave
# out a peer that fails, and that the tables show what was measured. Nothing here looks at a time.
set -u
build="$(cd "$1" && pwd)"
cd "$(dirname "$0")/../.."
programs="$build/bench"
[ -x "$programs/bench_in_turn" ] || { echo "skipped: no benchmarks were built"; exit 77; }
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
failures=0
expect() { # $1: what, $2: pattern, $3: text
    grep -Eq -e "$2" <<<"$3" || { echo "FAILED: $1: no \"$2\" in:"; echo "$3"; failures=$((failures + 1)); }
}
table() { awk -f bench/tables/json.awk -f "bench/tables/$1.awk" "$work/lines"; }

echo 'echo ready; while read -r case; do echo "{\"a\": \"$case\"}"; done; echo "{\"a\": \"end\"}"' >"$work/a.sh"
echo 'echo ready; read -r case; echo "{\"b\": \"$case\"}"; exit 3' >"$work/dies.sh"
turns="$(printf 'one\ntwo\n' | "$programs/bench_in_turn" sh "$work/a.sh" ++ sh "$work/dies.sh" ++ false 2>"$work/errors")"
[ $? -eq 0 ] || { echo "FAILED: a peer's failure is not ours"; failures=$((failures + 1)); }
expect "turns" '^\{"a": "one"\} \{"b": "one"\} \{"a": "two"\} \{"a": "end"\} $' "$(tr '\n' ' ' <<<"$turns")"
expect "the peer that died" 'sh ended in the middle' "$(cat "$work/errors")"
expect "the peer that never came" 'false ended before' "$(cat "$work/errors")"
printf 'one\ntwo\n' | "$programs/bench_in_turn" sh "$work/dies.sh" ++ sh "$work/a.sh" >/dev/null 2>&1 &&
    { echo "FAILED: our own failure is one"; failures=$((failures + 1)); }

limits='{"machine_limits": true, "threads": 2, "f32_flops_per_s": 2e11, "bf16_flops_per_s": 2e11, "bf16_through_f32": true, "i8_ops_per_s": 3e11, "bytes_per_s": 2e10}'
echo "$limits" >"$work/lines"
printf 'step\nstep\n' | "$programs/bench_in_turn" "$programs/bench_train_step" tiny 1 16 bf16 --paced >>"$work/lines"
echo '{"who": "torch 2 eager", "model": "tiny", "batch": 1, "seq_len": 16, "precision": "fp32", "step_s": 2, "tokens_per_s": 8}' >>"$work/lines"
expect "steps by request" '"steps": 2,.*"update_s": 0\.' "$(cat "$work/lines")"
expect "the peer of the table" 'torch 2 eager, fp32 +2\.00 s +8\.0' "$(table train_step)"
expect "the limits of the table" 'f32 200\.0 GFLOP/s.*memory 20\.0 GB/s' "$(table train_step)"

echo "$limits" >"$work/lines"
grep -v '^#' bench/kernels_small.txt >"$work/cases"
"$programs/bench_kernels" --seconds 0 <"$work/cases" | grep '^{' >>"$work/lines"
echo '{"who": "torch 2", "case": "adamw f32 1048576", "seconds": 10}' >>"$work/lines"
cases="$(grep -c . "$work/cases")" rows="$(table kernels | grep -c '%')"
[ "$rows" -eq $((cases + 1)) ] || { echo "FAILED: $rows rows of $cases cases"; table kernels; failures=$((failures + 1)); }
expect "the peer of a kernel" 'adamw f32 1048576 .*10\.00 s' "$(table kernels)"

printf '{"weights": "bf16", "perplexity": 20, "tokens": 100, "same": 0.99}\n{"weights": "int8", "perplexity": 20.1, "tokens": 100, "same": 0.9}\n' >"$work/lines"
expect "what 8 bits cost" 'int8 +20\.1000 +\+0\.50% +90\.0%' "$(table quality)"

"$programs/bench_checkpoint" tiny "$work" 1 >"$work/lines"
"$programs/bench_startup" ours "gpt2 model" "step 1/" -- printf 'gpt2 model\nx\nstep 1/1\n' >>"$work/lines"
expect "both lines were seen" '"at_1": 0\.[0-9]+, "at_2": 0\.' "$(cat "$work/lines")"
expect "checkpoints" 'write: tensors, MD5, synced +[0-9.]+ GB/s' "$(table startup)"
[ -z "$(ls "$work" | grep checkpoint)" ] || { echo "FAILED: a checkpoint was left behind"; failures=$((failures + 1)); }

"$build/bin/deepseek-tokenize" train --vocab-size 300 -o "$work/tokenizer.json" README.md >"$work/said" 2>&1
printf 'train 300\nencode\n' | "$programs/bench_tokenize" README.md "$work/tokenizer.json" | grep '^{' >"$work/lines"
n="$("$build/bin/deepseek-tokenize" encode --tokenizer "$work/tokenizer.json" --stdout --no-end README.md | wc -w)"
expect "all of the text is encoded" "\"case\": \"encode\", \"bytes\": $(wc -c <README.md), \"tokens\": $n," "$(cat "$work/lines")"
for task in train encode; do
    echo "{\"who\": \"peer 1\", \"case\": \"$task\", \"bytes\": 100000, \"tokens\": 7, \"seconds\": 2}" >>"$work/lines"
done
expect "the peer of a tokenizer" 'peer 1 +2\.00 s +0\.1 +7' "$(table tokenize)"
expect "a vocabulary learned" 'ours +[0-9.]+ [mu]?s +[0-9.]+ +300$' "$(table tokenize)"

cat >"$work/lines" <<'END'
{"bench": "serve", "who": "ours", "streams": 8, "prefix": "none", "tokens_per_s": 12.5, "first_p50_ms": 300.0, "first_p99_ms": 400.0}
{"bench": "serve", "who": "ours", "streams": 8, "prefix": "shared", "tokens_per_s": 50.0, "first_p50_ms": 20.0, "first_p99_ms": 40.0}
END
expect "a server under load" 'ours +8 +shared +50\.0 +20\.0 ms +40\.0 ms +15\.0 x' "$(table serve)"

"$programs/bench_random_model" tiny "$work/tiny"
echo "$limits" >"$work/lines"
printf 'decode 4\nprefill 40\nresident\nread\n' | "$programs/bench_generate" "$work/tiny" | grep '^{' >>"$work/lines"
echo '{"who": "peer 1", "model": "tiny", "case": "decode 4", "tokens": 4, "seconds": 4}' >>"$work/lines"
expect "ours in bf16" 'ours bf16 +[0-9.]+ [mu]?s' "$(table generate)"
expect "the peer of decoding" 'peer 1 +4\.00 s +1\.0 ' "$(table generate)"
expect "resident memory" 'tiny, bf16 +[0-9.]+ MB +0\.2 MB' "$(table resident)"
echo '{"startup": true, "who": "tiny, bf16", "at_1": 0.25}' >>"$work/lines"
expect "when the server is ready" 'tiny, bf16 .* 250\.00 ms' "$(table resident)"

prefill() { # limits: the table of prompts of 100 tokens and 1e11 operations
    { echo "$1"
        for type in bf16 int8 w8a16; do
            echo "{\"who\": \"ours $type\", \"model\": \"m\", \"case\": \"prefill 100\", \"tokens\": 100, \"seconds\": 1, \"flops\": 1e11}"
        done; } >"$work/lines"
    table generate
}
found="$(prefill "$limits")" # no bf16 instructions
expect "f32 is the limit of bf16 without instructions" 'ours bf16 .* 50\.0%' "$found"
expect "int8 is the limit of int8" 'ours int8 .* 33\.3%' "$found"
expect "floats are the limit of w8a16" 'ours w8a16 .* 50\.0%' "$found"
expect "the limits" 'limit: arithmetic of f32 +500\.00 ms +200\.0 +200\.0' "$found"
expect "the limits" 'limit: arithmetic of int8 +333\.33 ms +300\.0 +300\.0' "$found"
found="$(prefill "$(sed 's/"bf16_flops_per_s": 2e11, "bf16_through_f32": true, "i8_ops_per_s": 3e11/"bf16_flops_per_s": 4e11, "bf16_through_f32": false, "i8_ops_per_s": 0/' <<<"$limits")")"
expect "bf16 is the limit of bf16" 'ours bf16 .* 25\.0%' "$found"
expect "f32 is the limit of int8 without instructions" 'ours int8 .* 50\.0%' "$found"

[ "$failures" -eq 0 ] && echo "all passed"
exit "$((failures > 0))"
