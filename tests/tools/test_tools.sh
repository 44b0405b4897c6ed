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
    grep -qF "$text" "$dir/err" || fail "$* does not say \"$text\": $(cat "$dir/err")"
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
refuse 1 "gpt2-124m" "$bin/deepseek-plan" --model giant
refuse 1 "config.json" "$bin/deepseek-generate" --model "$dir" --prompt x
"$bin/deepseek-plan" --model deepseek-175b --seq 2048 >"$dir/out"
grep -q 174604259328 "$dir/out" || fail "deepseek-plan does not count 175 B"
for tool in train tokenize generate plan; do
    "$bin/deepseek-$tool" --help | grep -q "deepseek-$tool" || fail "deepseek-$tool --help"
done
echo "all well"
