#!/bin/sh
# Tokens of one text, one after another: ours, llama.cpp and transformers in turn, against what reading
# the weights once for each token takes.
#   bench/decode.sh [--json] [--save FILE] [--rounds N] [SHAPE …]     default: smollm2-135m llama-1b
# PYTHON names an interpreter with llama-cpp-python, gguf, torch, transformers. FOLDER: where random
# models of the shapes are written and kept.
. "$(dirname "$0")/script.sh"
. bench/generate.sh
[ $# -gt 0 ] || set -- smollm2-135m llama-1b
for shape; do
    in_turn "$shape" "${rounds:-5}" read "decode 32"
done
show generate
