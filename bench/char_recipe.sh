#!/bin/sh
# nanoGPT's character recipe for a CPU (https://github.com/karpathy/nanoGPT, README): a GPT of 0.8 M
# parameters learns Shakespeare letter by letter, and after 2000 steps the validation loss is 1.88.
#   bench/char_recipe.sh TEXT [key=value …]     TEXT: tinyshakespeare's input.txt
# Ours is the mean over 200 batches of 12 from the last tenth of the text.
set -eu
cd "$(dirname "$0")/.."
text="${1:?usage: bench/char_recipe.sh TEXT [key=value …]}"
shift
bin=build/release/bin
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
size="$(wc -c <"$text")"
head -c $((size * 9 / 10)) "$text" >"$work/train.txt"
tail -c +$((size * 9 / 10 + 1)) "$text" >"$work/val.txt"
# 256 bytes and the end of a text: letters are bytes here
"$bin/deepseek-tokenize" train --vocab-size 257 -o "$work/tokenizer.json" "$work/train.txt"
for part in train val; do
    "$bin/deepseek-tokenize" encode --no-end --tokenizer "$work/tokenizer.json" -o "$work/$part" \
        "$work/$part.txt"
done
cat >"$work/recipe.yaml" <<EOF
model: {architecture: gpt2, n_layers: 4, n_heads: 4, hidden_size: 128, intermediate_size: 512,
        max_seq_len: 64, dropout: 0}
data: {train: $work/train, validation: $work/val, tokenizer: $work/tokenizer.json, seq_len: 64}
optimizer: {name: adamw, learning_rate: 1e-3, beta2: 0.99, weight_decay: 0.1, grad_clip: 1}
schedule: {name: cosine, warmup_steps: 100, min_lr_ratio: 0.1}
training: {steps: 2000, micro_batch: 12, log_interval: 200, eval_interval: 2000, eval_batches: 200}
checkpoint: {directory: $work/out, interval: 0}
EOF
"$bin/deepseek-train" --config "$work/recipe.yaml" "$@" 2>&1 | grep '^step'
loss="$(sed -n 's/.*"validation\/loss":\([0-9.]*\).*/\1/p' "$work/out/metrics.jsonl" | tail -n 1)"
printf '{"validation_loss": %s, "published": 1.88}\n' "$loss"
awk -v loss="$loss" 'BEGIN { exit !(loss <= 1.88) }'
