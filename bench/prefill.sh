#!/bin/sh
# From a prompt to its first token: ours, llama.cpp and transformers in turn, against the processor's peak.
#   bench/prefill.sh [--json] [--save FILE] [--rounds N] [SHAPE …]     default: smollm2-135m llama-1b
# PYTHON names an interpreter with llama-cpp-python, gguf, torch, transformers. FOLDER: where random
# models of the shapes are written and kept.
. "$(dirname "$0")/script.sh"
. bench/generate.sh
[ $# -gt 0 ] || set -- smollm2-135m llama-1b
limits 2
for shape; do
    in_turn "$shape" "${rounds:-3}" "prefill 512" "prefill 2048"
done
show generate
