# Sourced by decode.sh, prefill.sh and resident.sh after script.sh: random models, and ours and the
# peers in turn on cases of bench_generate.
# FOLDER: where the models are written (and kept), default out/bench. They take 5 GB with llama.cpp's.
# shellcheck shell=sh disable=SC2154
models="${FOLDER:-out/bench}"

# model_of SHAPE: writes $models/SHAPE unless it is there.
model_of() {
    [ ! -s "$models/$1/config.json" ] || return 0
    say "writing $models/$1"
    "$programs/bench_random_model" "$1" "$models/$1" bf16
}

# gguf_of SHAPE TYPE: the same as $models/SHAPE.TYPE.gguf.
gguf_of() {
    [ ! -s "$models/$1.$2.gguf" ] || return 0
    say "writing $models/$1.$2.gguf"
    "$python" bench/peers/llama_to_gguf.py "$models/$1" "$work/gguf.$2.gguf" "$2" && mv "$work/gguf.$2.gguf" "$models/$1.$2.gguf"
}

# in_turn SHAPE ROUNDS CASE…: every case of each round by ours, llama.cpp and transformers in turn.
in_turn() {
    shape="$1" round="$2"
    shift 2
    model_of "$shape"
    while [ "$round" -gt 0 ]; do
        printf '%s\n' "$@"
        round=$((round - 1))
    done >"$work/cases"
    set -- "$programs/bench_generate" "$models/$shape" --threads "$threads"
    if [ -n "$llama_cpp" ]; then
        for type in bf16 f16; do
            gguf_of "$shape" "$type" || continue
            set -- "$@" ++ "$python" bench/peers/llama_cpp_generate.py "$models/$shape.$type.gguf" "$shape" --threads "$threads"
        done
    fi
    [ -z "$transformers" ] ||
        set -- "$@" ++ "$python" bench/peers/transformers_generate.py "$models/$shape" "$shape" --threads "$threads"
    say "$shape"
    "$programs/bench_in_turn" "$@" <"$work/cases" >>"$lines" || say "$shape failed"
}

llama_cpp="" transformers=""
if [ -z "${alone:-}" ]; then
    has_peer llama_cpp gguf torch safetensors && llama_cpp=1
    has_peer torch transformers && transformers=1
fi
