# What deepseek-train makes of signals and crashes, alone and under --supervise. $1: the build folder.
set -eu
bin="$1/bin"
dir="$(mktemp -d)"
pid=""
trap '[ -z "$pid" ] || kill -KILL -- -"$pid" 2>/dev/null || true; rm -rf "$dir"' EXIT

fail() { echo "FAILED: $*" >&2; cat "$dir/out" "$dir/err" >&2; exit 1; }
# Runs "$@", which must fail with the exit status $1 and a message that holds $2.
refuse() {
    want="$1" text="$2"; shift 2
    status=0
    "$@" >"$dir/out" 2>"$dir/err" || status=$?
    [ "$status" -eq "$want" ] || fail "$* ended with $status, not $want"
    grep -qF "$text" "$dir/err" || fail "$* does not say \"$text\""
}
# Starts "$@" in a process group of its own, as a terminal would. Sets pid.
start() {
    : >"$dir/out"
    setsid "$@" >"$dir/out" 2>"$dir/err" &
    pid=$!
}
# Waits until the run that was started has said $1.
until_said() {
    while ! grep -q "$1" "$dir/out"; do
        kill -0 "$pid" 2>/dev/null || fail "the run ended before it said \"$1\""
        sleep 0.05
    done
}
# The run that was started must end with status $1.
ends() {
    status=0
    wait "$pid" || status=$?
    [ "$status" -eq "$1" ] || fail "$2: exit status $status, not $1"
}
newest() { ls "$dir/run/checkpoints" | sed -n 's/^step-0*//p' | sort -n | tail -n 1; }

for i in $(seq 1 400); do
    echo "In the year $i the king counted $((i * 7)) sheep and $((i * 3)) goats, and he was glad."
done >"$dir/text.txt"
: >"$dir/err"
"$bin/deepseek-tokenize" train --vocab-size 400 -o "$dir/tokenizer.json" "$dir/text.txt" >"$dir/out" 2>&1
"$bin/deepseek-tokenize" encode --tokenizer "$dir/tokenizer.json" -o "$dir/tokens" "$dir/text.txt" >"$dir/out" 2>&1
cat >"$dir/run.yaml" <<END
model: {preset: tiny, vocab_size: 400, n_layers: 2, hidden_size: 64, max_seq_len: 64}
data: {train: $dir/tokens, tokenizer: $dir/tokenizer.json, validation_fraction: 0.1, seq_len: 64}
optimizer: {learning_rate: 3e-3}
training: {steps: 100000, micro_batch: 4, eval_interval: 0, sample_interval: 0}
checkpoint: {directory: $dir/run, interval: 10, keep_last: 2}
supervise: {backoff: 50ms, max_backoff: 80ms}
END
train="$bin/deepseek-train --config $dir/run.yaml"

# $1: what the signal goes to, the process or its group (-- -); $2: the signal; $3…: more arguments
stops_well() {
    whom="$1" signal="$2"; shift 2
    rm -rf "$dir/run"
    start $train checkpoint.interval=0 "$@"
    until_said "^step 20/"
    # a handler's frame would be written over the data of oneDNN's kernels
    caught="$(sed -n 's/^SigCgt:[[:space:]]*//p' "/proc/$(pgrep -P "$pid" || echo "$pid")/status")"
    [ $((0x$caught & 0x6002)) -eq 0 ] || fail "the trainer has handlers of INT, ALRM or TERM"
    kill -"$signal" $whom"$pid"
    ends 0 "$signal to $whom$pid, $*"
    [ -n "$(newest)" ] || fail "SIG$signal ($*) left no checkpoint"
    start $train checkpoint.interval=0 "$@"
    until_said "resumed at step $(newest) "
    kill -"$signal" $whom"$pid"
    ends 0 "$signal to the resumed run, $*"
}
echo "one SIGTERM or Ctrl-C saves and ends well; the same command goes on"
stops_well "" TERM
stops_well "-- -" INT
stops_well "" TERM --supervise
stops_well "" INT --supervise
stops_well "-- -" INT --supervise
stops_well "-- -" TERM --supervise

echo "a second Ctrl-C ends the run at once"
# Each step takes so long that only the second signal can end it within the test.
interrupt_twice() {
    rm -rf "$dir/run"
    start $train supervise.enabled="$1" training.micro_batch=1 \
        training.gradient_accumulation_steps=50000
    until_said "parameters"
    sleep 0.5
    while kill -INT -- -"$pid" 2>/dev/null; do sleep 0.2; done
}
for supervise in false true; do
    interrupt_twice $supervise
    while grep -q "stopped before a step" "$dir/out"; do interrupt_twice $supervise; done # too early
    ends 130 "two Ctrl-C"
    [ -z "$(newest)" ] || fail "the run went on to its checkpoint"
done

echo "a run does not outlive its supervisor"
rm -rf "$dir/run"
start $train --supervise
until_said "^step 20/"
child="$(pgrep -P "$pid")"
kill -KILL "$pid"
ends 137 "SIGKILL to the supervisor"
while kill -0 "$child" 2>/dev/null; do sleep 0.05; done

echo "kill -9 costs the steps since the last checkpoint at most, and progress renews the patience"
rm -rf "$dir/run"
start $train --supervise training.steps=300 supervise.max_restarts=1
for step in 50 150 250; do
    until_said "^step $step/"
    pkill -9 -P "$pid" || true
    while [ "$(grep -c "killed by signal 9" "$dir/err")" -lt $((step / 100 + 1)) ]; do sleep 0.05; done
done
ends 0 "the supervised run"
[ "$(grep -c "restart 1 of 1" "$dir/err")" -eq 3 ] || fail "progress between crashes was not seen"
[ "$(newest)" -eq 300 ] || fail "the supervised run did not come to its end"

echo "the supervisor gives up on what is wrong at the start, and after restarts without progress"
refuse 2 "no such file" $train --supervise data.train=/nowhere
! grep -q "restart" "$dir/err" || fail "a run without data was started again"
refuse 2 "vocab_size" $train --supervise model.vocab_size=300 checkpoint.resume=never
! grep -q "restart" "$dir/err" || fail "a run with a wrong model was started again"
cp -r "$dir/tokens.bin" "$dir/torn.bin"
head -c 30 "$dir/tokens.idx" >"$dir/torn.idx"
refuse 2 "torn" $train --supervise data.train="$dir/torn"
! grep -q "restart" "$dir/err" || fail "a run with torn data was started again"
refuse 1 "given up after 2 restarts" $train --supervise supervise.max_restarts=2 \
    checkpoint.directory="$dir/text.txt/run"
grep -q "restart 1 of 2 in 0.1 s" "$dir/err" || fail "the supervisor did not wait"
echo "all well"
