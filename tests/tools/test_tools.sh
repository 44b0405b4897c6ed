# The tools as a user meets them: from text to a model that writes, and wrong input. Signals and
# crashes are test_supervise.sh's.
# $1: the build folder.
set -eu
bin="$1/bin"
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }
# Runs "$@", which must fail with the exit status $1 and a message that holds $2.
refuse() {
    want="$1" text="$2"; shift 2
    status=0
    "$@" >"$dir/out" 2>"$dir/err" || status=$?
    [ "$status" -eq "$want" ] || fail "$* ended with $status, not $want: $(cat "$dir/err")"
    grep -qF -- "$text" "$dir/err" || fail "$* does not say \"$text\": $(cat "$dir/err")"
}

for i in $(seq 1 400); do
    echo "In the year $i the king counted $((i * 7)) sheep and $((i * 3)) goats, and he was glad."
done >"$dir/text.txt"

"$bin/deepseek-tokenize" train --vocab-size 400 -o "$dir/tokenizer.json" "$dir/text.txt" >"$dir/out" 2>&1
"$bin/deepseek-tokenize" encode --tokenizer "$dir/tokenizer.json" -o "$dir/tokens" "$dir/text.txt" >"$dir/out" 2>&1

cat >"$dir/run.yaml" <<END
model: {preset: tiny, vocab_size: 400, n_layers: 2, hidden_size: 64, max_seq_len: 64}
data: {train: $dir/tokens, tokenizer: $dir/tokenizer.json, validation_fraction: 0.1, seq_len: 64}
precision: {mode: mixed, fp16: false, bf16: true, loss_scale: dynamic}
optimizer: {learning_rate: 3e-3}
training: {steps: 40, micro_batch: 4, eval_interval: 20, sample_interval: 0}
checkpoint: {directory: $dir/run, interval: 10, keep_last: 2}
END
train="$bin/deepseek-train --config $dir/run.yaml"

echo "a whole run"
$train >"$dir/out"
grep -q "validation loss" "$dir/out" || fail "no validation loss"
[ "$(ls "$dir/run/checkpoints" | wc -l)" -eq 2 ] || fail "keep_last was not kept"
(cd "$dir/run/checkpoints/step-00000040" && md5sum -c --quiet MD5SUMS) || fail "MD5SUMS"
"$bin/deepseek-generate" --model "$dir/run" --prompt "In the year" --max-tokens 10 >"$dir/out"
grep -q "In the year" "$dir/out" || fail "generate wrote nothing"
a="$("$bin/deepseek-generate" --model "$dir/run" --prompt "In" --max-tokens 20 --seed 3)"
b="$("$bin/deepseek-generate" --model "$dir/run" --prompt "In" --max-tokens 20 --seed 3)"
[ "$a" = "$b" ] || fail "the same seed writes two texts"

echo "a model is what it was when it was written"
cp -r "$dir/run/checkpoints/step-00000040" "$dir/model"
rm "$dir/model/optimizer.safetensors" # not needed for writing
"$bin/deepseek-generate" --model "$dir/model" --prompt "In" --max-tokens 2 >"$dir/out"
flip() { # changes the last byte of a file
    size="$(wc -c <"$1")"
    byte="$(tail -c 1 "$1" | od -An -tu1)"
    # shellcheck disable=SC2059 # the octal number is the format
    printf "\\$(printf %03o $((byte ^ 1)))" | dd of="$1" bs=1 seek=$((size - 1)) conv=notrunc 2>/dev/null
}
flip "$dir/model/model.safetensors"
refuse 1 "model/model.safetensors: its MD5 sum" "$bin/deepseek-generate" --model "$dir/model" --prompt "In"
flip "$dir/run/checkpoints/step-00000040/model.safetensors"
"$bin/deepseek-generate" --model "$dir/run" --prompt "In" --max-tokens 2 >"$dir/out" 2>"$dir/err"
grep -q "passing over a damaged checkpoint: .*step-00000040/model.safetensors" "$dir/err" ||
    fail "the damaged checkpoint was passed over in silence"

echo "wrong input is refused by name"
refuse 2 "did you mean 'learning_rate'" $train optimizer.lerning_rate=1
refuse 2 "no such file" $train data.train=/nowhere
refuse 2 "key=value" $train nonsense
refuse 2 "no such file" $train data.tokenizer=/nowhere.json

echo "a plan needs no data"
$train --dry-run >"$dir/out"
! grep -q "not checked" "$dir/out" || fail "--dry-run does not look at data that are there"
for key in train tokenizer validation; do
    $train --dry-run data.validation_fraction=0 data.$key=/nowhere >"$dir/out" || fail "--dry-run wants data"
    grep -q "^total" "$dir/out" || fail "--dry-run without data.$key: no plan"
    grep -q "not checked: /nowhere is missing" "$dir/out" || fail "--dry-run does not say that data.$key is missing"
done
refuse 2 "data.task" $train --dry-run data.train=/nowhere data.task=masked_lm
(cd "$(dirname "$0")/../.." && "$bin/deepseek-train" --config configs/gpt2-124m.yaml --dry-run) >"$dir/out" ||
    fail "README's --dry-run: $(cat "$dir/out")"
grep -q "^model .*gpt2, 124" "$dir/out" || fail "README's --dry-run: $(cat "$dir/out")"

$train --print-graph kernels.fused_attention=false >"$dir/out"
grep -q "^%.* = softmax " "$dir/out" || fail "fused_attention: false: no softmax over scores"
! sed '1,/^# after unfuse_attention$/d' "$dir/out" | grep -q "attention " ||
    fail "fused_attention: false: attention is fused"
refuse 2 "text or dot" $train --print-graph=foo
$train --print-graph >"$dir/out"
for stage in model precision autodiff fuse contiguous plan; do
    grep -q "^# after $stage\$" "$dir/out" || fail "--print-graph: no stage $stage"
done
grep -q "^ .* matmul .* @ work+0x.* <- .*FLOP.* moved" "$dir/out" || fail "--print-graph: no place in the plan"
$train --print-graph=text | cmp - "$dir/out" || fail "--print-graph=text is not the default"
$train --print-graph=dot >"$dir/out"
grep -q "matmul.*FLOP.* moved" "$dir/out" || fail "--print-graph=dot: no cost"
[ "$(grep -c '^digraph' "$dir/out")" -eq "$(grep -c '^}$' "$dir/out")" ] || fail "--print-graph=dot: braces"
refuse 1 "gpt2-124m" "$bin/deepseek-plan" --model giant
for no_model in text.txt model/model.safetensors; do
    refuse 1 "$no_model: is no model; expected a folder with config.json" \
        "$bin/deepseek-generate" --model "$dir/$no_model" --prompt x
done
echo '# none' >"$dir/config.json"
refuse 1 "config.json:1:1: '[' or '{' expected" "$bin/deepseek-generate" --model "$dir/config.json" --prompt x
rm "$dir/config.json"
for tool in "generate --prompt x" "serve --port 0"; do
    # shellcheck disable=SC2086 # options
    refuse 1 "--speculate: nowhere: no such file" "$bin/deepseek-"$tool --model "$dir/run" --speculate nowhere
done
refuse 2 "max-tokens 1.5: should be a whole number" "$bin/deepseek-generate" --model x -n 1.5
refuse 2 "temperature warm: should be a number" "$bin/deepseek-generate" --model x --temperature warm
refuse 2 "seq 0x10: should be a whole number" "$bin/deepseek-plan" --model tiny --seq 0x10
refuse 2 "precision int8: should be bf16" $train --precision int8
refuse 2 "command line: training.steps" $train --steps 1.5
refuse 2 "print-graph=svg" $train --print-graph=svg

echo "flags are keys, and no override is lost"
"$bin/deepseek-train" --config "$dir/run.yaml" --help >"$dir/help"
for flag in output data tokenizer model steps micro-batch seq-len learning-rate seed precision resume \
    threads device; do
    grep -q -- "--$flag " "$dir/help" || fail "--help does not list --$flag"
done
$train -o "$dir/flags" --steps 2 --micro-batch 3 --seq-len 32 --learning-rate 0.125 --seed 7 \
    --precision fp32 --threads 1 --device ref --model tiny >"$dir/out"
for line in "steps: 2" "micro_batch: 3" "seq_len: 32" "learning_rate: 0.125" "mode: full" \
    "threads: 1" "device: ref"; do
    grep -q "^ *$line\$" "$dir/flags/config.yaml" || fail "no \"$line\" in the resolved configuration"
done
many=""
for i in $(seq 300); do many="$many training.seed=$i"; done
$train --dry-run $many optimizer.lerning_rate=1 2>"$dir/err" >"$dir/out" && fail "the 301st override was lost"
grep -q lerning_rate "$dir/err" || fail "the 301st override was lost: $(cat "$dir/err")"
refuse 1 "config.json" "$bin/deepseek-generate" --model "$dir" --prompt x
# Within 5 s and 1 GiB of addresses, of which threads would take some; a sanitizer takes more for itself.
sanitizers="$(sed -n 's/^DS_SANITIZE:[^=]*=//p' "$1/CMakeCache.txt")"
(
    [ -n "$sanitizers" ] || ulimit -v 1048576
    OMP_NUM_THREADS=1 timeout "$([ -z "$sanitizers" ] && echo 5 || echo 120)" \
        "$bin/deepseek-plan" --model deepseek-175b --seq 2048 >"$dir/out"
) || fail "deepseek-plan: 175 B planned with $?, in more than 5 s or 1 GiB"
grep -q 174604259328 "$dir/out" || fail "deepseek-plan does not count 175 B"
plan() { grep "$1" "$dir/out" | sed "s/.*$1 *//"; }
[ "$(plan 'weights (f32 masters)')" = "650.5 GiB" ] || fail "deepseek-plan: 4 bytes a master"
[ "$(plan 'weights (low-precision copies)')" = "325.2 GiB" ] || fail "deepseek-plan: 2 bytes a copy"
[ "$(plan 'gradients (f32)')" = "650.5 GiB" ] || fail "deepseek-plan: 4 bytes a gradient"
[ "$(plan 'optimizer state')" = "1.27 TiB" ] || fail "deepseek-plan: 8 bytes of AdamW"
grep "total, recompute" "$dir/out" | awk '$5 != "TiB" || (NR > 1 && $4 > last) || (NR > 2 && $4 == last) { exit 1 } { last = $4 }' ||
    fail "deepseek-plan: recomputing needs more than keeping: $(cat "$dir/out")"
for tool in train tokenize generate plan; do
    "$bin/deepseek-$tool" --help | grep -q "deepseek-$tool" || fail "deepseek-$tool --help"
done
echo "all well"
