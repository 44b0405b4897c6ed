#!/bin/sh
# Start-up: from the start of deepseek-train to the first step of the demo model. Checkpoints: how fast
# they are written and read against the disk (write, fsync, read) and memory, in the same run.
#   bench/startup.sh [--json] [--save FILE] [--rounds N] [PRESET]
# PRESET: the model whose checkpoints are written, default gpt2-124m. FOLDER: where, default out/ (it
# should not be in memory). PYTHON names an interpreter with torch and transformers.
. "$(dirname "$0")/script.sh"
preset="${1:-gpt2-124m}" folder="${FOLDER:-out}" rounds="${rounds:-5}" bin=build/release/bin
mkdir -p "$folder"
peer=""
has_peer torch transformers && peer=1
limits 2

say "tokens"
data=out/demo/bible tokenizer=out/demo/tokenizer.json
if [ ! -s "$data.idx" ] || [ ! -s "$tokenizer" ]; then # without the demo's: this project's own text
    data="$work/text" tokenizer="$work/tokenizer.json"
    find src include tests tools bench docs \( -name '*.[ch]' -o -name '*.md' \) -exec cat {} + >"$work/text.txt"
    "$bin/deepseek-tokenize" train --vocab-size 8192 -o "$tokenizer" "$work/text.txt" >&2
    "$bin/deepseek-tokenize" encode --tokenizer "$tokenizer" -o "$data" "$work/text.txt" >&2
fi
for round in $(seq "$rounds"); do
    say "start $round of $rounds"
    run="$work/run-$round"
    DATA="$data" TOKENIZER="$tokenizer" "$programs/bench_startup" ours "gpt2 model" "step 1/" -- \
        "$bin/deepseek-train" --config configs/demo.yaml --threads "$threads" "checkpoint.directory=$run" \
        training.duration=auto training.steps=1 training.eval_interval=0 training.sample_interval=0 >"$work/started" ||
        say "deepseek-train failed"
    # the step's own duration, from the run's record: tokens of a step / tokens a second
    step="$(awk -f bench/tables/json.awk -f bench/tables/first_step.awk "$run/metrics.jsonl" || :)"
    sed "s/}\$/, \"first_step_s\": ${step:-0}}/" "$work/started" >>"$lines"
    rm -rf "$run"
    [ -z "$peer" ] || "$programs/bench_startup" torch "first step" -- "$python" bench/peers/pytorch_train.py \
        demo 16 256 fp32 --threads "$threads" --steps 1 >>"$lines" || say "the peer failed"
done

say "checkpoints"
checkpoint_rounds=$((rounds < 3 ? rounds : 3)) # each writes several GB
"$programs/bench_checkpoint" "$preset" "$folder" "$checkpoint_rounds" >>"$lines" || say "bench_checkpoint failed"
if [ -n "$peer" ]; then
    size="$(sed -n 's/.*"checkpoint".*"size_bytes": \([0-9]*\).*/\1/p' "$lines" | head -n 1)"
    [ -z "$size" ] || "$python" bench/peers/pytorch_checkpoint.py "$((size / 12))" "$folder" "$checkpoint_rounds" \
        >>"$lines" || say "the peer failed"
fi
show startup
