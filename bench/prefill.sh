#!/bin/sh
# From a prompt to its first token: ours, llama.cpp and transformers in turn, against the processor's peak.
#   bench/prefill.sh [--json] [--save FILE] [--rounds N] [SHAPE …]     default: smollm2-135m llama-1b
# PYTHON names an interpreter with llama-cpp-python, gguf, torch, transformers. FOLDER: where random
# models of the shapes are written and kept. BITS: of the weights, default 16, 8 and 4 (llama.cpp: bf16 and f16, Q8_0, Q4_0).
. "$(dirname "$0")/script.sh"
. bench/generate.sh
[ $# -gt 0 ] || set -- smollm2-135m llama-1b
limits 2
for shape; do
    for bits in ${BITS:-16 8 4}; do
        in_turn "$shape" "$bits" "${rounds:-3}" "prefill 512" "prefill 2048"
    done
done
show generate
