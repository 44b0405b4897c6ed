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

# Weights of so many bits: by what names ours and llama.cpp's go.
ours_of() {
    case "$1" in 16) echo bf16 ;; 8) echo int8 w8a16 ;; 4) echo int4-32 ;; esac
}
llama_cpp_of() {
    case "$1" in 16) echo bf16 f16 ;; 8) echo q8_0 ;; 4) echo q4_0 ;; esac
}

# in_turn SHAPE BITS ROUNDS CASE…: every case of each round by ours, llama.cpp and transformers in turn.
in_turn() {
    shape="$1" bits="$2" round="$3"
    shift 3
    model_of "$shape"
    name="$shape, $bits bits"
    while [ "$round" -gt 0 ]; do
        printf '%s\n' "$@"
        round=$((round - 1))
    done >"$work/cases"
    set --
    for type in $(ours_of "$bits"); do
        [ $# -eq 0 ] || set -- "$@" ++
        set -- "$@" "$programs/bench_generate" "$models/$shape" --name "$name" --threads "$threads" --dtype "$type"
    done
    if [ -n "$llama_cpp" ]; then
        for type in $(llama_cpp_of "$bits"); do
            gguf_of "$shape" "$type" || continue
            set -- "$@" ++ "$python" bench/peers/llama_cpp_generate.py "$models/$shape.$type.gguf" "$name" --threads "$threads"
        done
    fi
    [ -z "$transformers" ] || [ "$bits" != 16 ] ||
        set -- "$@" ++ "$python" bench/peers/transformers_generate.py "$models/$shape" "$name" --threads "$threads"
    say "$name"
    "$programs/bench_in_turn" "$@" <"$work/cases" >>"$lines" || say "$name failed"
}

llama_cpp="" transformers=""
if [ -z "${alone:-}" ]; then
    has_peer llama_cpp gguf torch safetensors && llama_cpp=1
    has_peer torch transformers && transformers=1
fi
