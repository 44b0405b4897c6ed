#!/bin/sh
# Whole training steps (forward, backward, clipping, AdamW), ours and PyTorch's in turn, against the
# machine's peak.
#   bench/train_step.sh [--json] [--save FILE] [--rounds N] [MODEL BATCH SEQ_LEN fp32|bf16 …]
# Default: GPT-2 124 M at 4 x 256 and 4 x 1024, fp32 and bf16. PYTHON names an interpreter with
# torch and transformers. The peer of bf16 is PyTorch's fastest of bf16 and fp32, eager and compiled:
# on processors without bf16 instructions its bf16 is many times slower, and PEER_BF16=no leaves it out.
. "$(dirname "$0")/script.sh"
[ $# -gt 0 ] || set -- gpt2-124m 4 256 fp32 gpt2-124m 4 256 bf16 gpt2-124m 4 1024 fp32 gpt2-124m 4 1024 bf16
peer=""
has_peer torch transformers && peer=1
limits
while [ $# -ge 4 ]; do
    say "$1, $2 x $3, $4"
    precisions="$4"
    [ "$4" = fp32 ] || precisions="$4,fp32"
    [ "${PEER_BF16:-yes}" = yes ] || precisions=fp32
    yes step | head -n "${rounds:-5}" |
        "$programs/bench_in_turn" "$programs/bench_train_step" "$1" "$2" "$3" "$4" --threads "$threads" --paced \
            ${peer:+++ "$python" bench/peers/pytorch_train.py "$1" "$2" "$3" "$precisions" --threads "$threads" \
            --variants "${VARIANTS:-eager,compiled}" --paced} >>"$lines" || say "$1, $2 x $3, $4 failed"
    shift 4
done
show train_step
