#!/bin/bash
# deepseek-quantize: folders that are smaller and predict as well, that other programs open, and
# refusals that leave nothing behind.
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

quantize() { "$bin/deepseek-quantize" "$@"; }
score() {
    "$bin/deepseek-generate" --model "$1" --perplexity "$out/text" -n 768 --window 128 |
        sed -n 's/^perplexity \([0-9.]*\) over 762 tokens$/\1/p'
}
near() { # folder, factor
    local now
    now=$(score "$out/$1")
    awk -v a="$exact" -v b="$now" -v most="$2" 'BEGIN { exit !(b > a / most && b < a * most) }' ||
        { echo "$1: perplexity $now is far from $exact"; exit 1; }
}

exact=$(score "$model")
quantize "$model" "$out/bytes" | grep -q '14 matrices quantised, 2.50 MiB → 1.38 MiB'
quantize "$model" "$out/words" --dtype int4 --group-size 32 > "$out/said"
quantize "$model" "$out/smooth" --calibrate "$out/text" --smooth 0.5 | grep -q '10 smoothed'
quantize "$model" "$out/apart" --calibrate "$out/text" --smooth 0.4 --smooth-all --outliers 3 |
    grep -q '14 smoothed, [1-9][0-9]* columns kept'
quantize "$model" "$out/kept" --calibrate "$out/text" --outliers 3 > "$out/said"
# (what smoothing is worth, on a model that needs it: test_smoothing.c)
near bytes 1.05
near words 2
near smooth 1.05
near apart 1.05
near kept 1.05

# what was quantised while loading is the same as what was read from the folder
"$bin/deepseek-generate" --model "$model" --dtype int8 -p 'Once upon' -n 30 --temperature 0 > "$out/loaded"
"$bin/deepseek-generate" --model "$out/bytes" --dtype int8 -p 'Once upon' -n 30 --temperature 0 > "$out/read"
cmp "$out/loaded" "$out/read"

for format in bytes:int-quantized words:pack-quantized smooth:int-quantized apart:int-quantized-outliers; do
    grep -q "\"format\": \"${format##*:}\"" "$out/${format%%:*}/config.json"
done
[ -f "$out/bytes/tokenizer.json" ]

refuses() { # what the message says, arguments
    local says=$1
    shift
    if quantize "$@" 2> "$out/error"; then
        echo "not refused: $*"
        exit 1
    fi
    grep -q -- "$says" "$out/error" || { cat "$out/error"; exit 1; }
}
refuses 'is there already' "$model" "$out/bytes"
refuses 'is quantised already' "$out/bytes" "$out/again"
refuses 'want a calibration text' "$model" "$out/again" --smooth 0.5
refuses 'must be multiples of 8' "$model" "$out/again" --dtype int4 --group-size 12
refuses 'groups are for weights of 4 bits' "$model" "$out/again" --group-size 32
refuses 'are for weights of 8 bits' "$model" "$out/again" --dtype int4 --outliers 5 --calibrate "$out/text"
refuses 'int8 or int4' "$model" "$out/again" --dtype int3
refuses 'less than 256' "$model" "$out/again" --calibrate "$out/error" --smooth 0.5
refuses 'no such file' "$out/nothing" "$out/again"
[ ! -e "$out/again" ] && [ ! -e "$out/again.part" ]
