#!/bin/sh
# One training step, ours and PyTorch's, in turn on the same machine:
#   bench/compare_train.sh [MODEL BATCH SEQ_LEN]      default: gpt2-124m 4 256
# PYTHON names an interpreter with torch and transformers.
set -eu
cd "$(dirname "$0")/.."
model="${1:-gpt2-124m}" batch="${2:-4}" seq="${3:-256}" python="${PYTHON:-python3}"
for precision in bf16 fp32; do
    build/release/bench/bench_train_step "$model" "$batch" "$seq" "$precision" --threads 2
    "$python" bench/peers/pytorch_train.py "$model" "$batch" "$seq" "$precision" --threads 2 --steps 3
done
