# Whatever allocation of a training run fails, no signal ends the run: it says that memory ran out,
# and ends, or goes on without a checkpoint, a sample or its record. The run after it goes on from
# what it left.
# $1: the build folder.
set -eu
bin="$1/bin"
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }

for i in $(seq 60); do
    echo "In the year $i the king counted $((i * 7)) sheep, and he was glad."
done >"$dir/text.txt"
"$bin/deepseek-tokenize" train --vocab-size 300 -o "$dir/tokenizer.json" "$dir/text.txt" >"$dir/out" 2>&1
"$bin/deepseek-tokenize" encode --tokenizer "$dir/tokenizer.json" -o "$dir/tokens" "$dir/text.txt" >"$dir/out" 2>&1
cat >"$dir/run.yaml" <<END
model: {preset: tiny, vocab_size: 300, n_layers: 1, hidden_size: 32, n_heads: 2, intermediate_size: 64, max_seq_len: 32}
data: {train: $dir/tokens, tokenizer: $dir/tokenizer.json, validation_fraction: 0.1, seq_len: 32}
training: {steps: 3, micro_batch: 1, eval_interval: 2, sample_interval: 2, sample_tokens: 2}
checkpoint: {directory: $dir/run, interval: 2, async: false}
threads: 1
END

# Trains anew with the n-th allocation failing, 0 for none; true if none failed.
is_untouched() {
    n="$1" status=0
    rm -rf "$dir/run"
    DS_FAULT="alloc:$n" "$bin/deepseek-train" --config "$dir/run.yaml" >"$dir/out" 2>"$dir/err" || status=$?
    [ "$status" -le 2 ] || fail "allocation $n: status $status: $(cat "$dir/err")"
    ! grep -q "out of memory" "$dir/out" "$dir/err" || return 1
    [ "$status" -eq 0 ] || fail "allocation $n: no word of memory: $(cat "$dir/err")"
}

is_untouched 0 || fail "without a fault: $(cat "$dir/err")"

echo "how many allocations there are"
below=1 above=2
while ! is_untouched "$above"; do
    below="$above" above=$((above * 2))
done
while [ $((above - below)) -gt 32 ]; do
    middle=$(((below + above) / 2))
    if is_untouched "$middle"; then above="$middle"; else below="$middle"; fi
done
[ "$below" -gt 100 ] || fail "only $below allocations in a whole run"

echo "25 of $below fail, one a run"
silent=0
for i in $(seq 25); do
    n=$((below * i / 26))
    # nothing is said where nothing is missing: a draw takes the likeliest token instead
    ! is_untouched "$n" || silent=$((silent + 1))
    "$bin/deepseek-train" --config "$dir/run.yaml" >"$dir/out" 2>"$dir/err" ||
        fail "after allocation $n: $(cat "$dir/err")"
    [ -d "$dir/run/checkpoints/step-00000003" ] || fail "after allocation $n: no last checkpoint"
done
[ "$silent" -le 3 ] || fail "$silent allocations of 25 failed in silence"
echo "all well"
