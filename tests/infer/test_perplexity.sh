#!/bin/bash
# deepseek-generate --perplexity: a trained model's perplexity on a text of its kind, quantised
# weights close to it, guesses written out, and errors that say what was wrong.
set -eu
bin=$1/bin
assets=$(dirname "$0")/../../../shared/assets
model=$assets/tinystories656k
[ -d "$model" ] || { echo "SKIPPED: no $model"; exit 77; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for i in $(seq 60); do
    echo "Once upon a time, there was a little girl named Lily. She liked to play with her dog number $i."
done > "$out/text"

score() { # dtype
    "$bin/deepseek-generate" --model "$model" --dtype "$1" --perplexity "$out/text" -n 768 \
        --window 128 --likeliest "$out/$1.ids" | sed -n 's/^perplexity \([0-9.]*\) over 762 tokens$/\1/p'
}
exact=$(score f32)
for kind in w8a16:1.02 int8:1.05 int4-32:2; do
    awk -v a="$exact" -v b="$(score "${kind%%:*}")" -v most="${kind##*:}" \
        'BEGIN { exit !(a > 1 && a < 2000 && b > a / most && b < a * most) }' ||
        { echo "perplexity as ${kind%%:*} is far from $exact"; exit 1; }
done
[ "$(wc -l < "$out/f32.ids")" = 768 ]
same=$(paste "$out/f32.ids" "$out/w8a16.ids" | awk '$1 == $2' | wc -l)
[ "$same" -ge 700 ]

refuses() { # what the message says, arguments
    local says=$1
    shift
    if "$bin/deepseek-generate" --model "$model" "$@" 2> "$out/error"; then
        echo "not refused: $*"
        exit 1
    fi
    grep -q -- "$says" "$out/error" || { cat "$out/error"; exit 1; }
}
echo short > "$out/short"
refuses 'less than one window' --perplexity "$out/short"
refuses 'the model.s longest' --perplexity "$out/text" --window 1000000
refuses 'no such file\|No such file' --perplexity "$out/nothing"
refuses 'goes with --perplexity' --likeliest "$out/ids" -p x
refuses 'there are: auto, f32' --dtype int3 -p x
