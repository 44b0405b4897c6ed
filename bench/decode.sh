#!/bin/sh
# Tokens of one text, one after another: ours, llama.cpp and transformers in turn, against what reading
# the weights once for each token takes.
#   bench/decode.sh [--json] [--save FILE] [--rounds N] [SHAPE …]     default: smollm2-135m llama-1b
# PYTHON names an interpreter with llama-cpp-python, gguf, torch, transformers. FOLDER: where random
# models of the shapes are written and kept. BITS: of the weights, default 16, 8 and 4 (llama.cpp: bf16 and f16, Q8_0, Q4_0).
. "$(dirname "$0")/script.sh"
. bench/generate.sh
[ $# -gt 0 ] || set -- smollm2-135m llama-1b
for shape; do
    for bits in ${BITS:-16 8 4}; do
        in_turn "$shape" "$bits" "${rounds:-5}" read "decode 32"
    done
done
show generate
