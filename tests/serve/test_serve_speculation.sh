# deepseek-serve with tokens guessed ahead: the same answers, greedy and drawn, whoever guesses, and
# numbers that tell how often that was right. $1: the build folder.
set -eu
bin="$1/bin/deepseek-serve"
here="$(cd "$(dirname "$0")" && pwd)"
model="$here/../../../shared/assets/tinystories656k"
[ -d "$model" ] || { echo "SKIPPED: no $model"; exit 77; }
command -v curl >/dev/null || { echo "SKIPPED: no curl"; exit 77; }
dir="$(mktemp -d)"
pid=""
end() { [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$dir"; }
trap end EXIT
fail() { echo "FAILED: $*" >&2; cat "$dir/err" >&2; exit 1; }

answers() { # options → $dir/answers
    : >"$dir/out"
    "$bin" --model "$model" --port 0 --threads 1 "$@" >"$dir/out" 2>"$dir/err" &
    pid=$!
    for _ in $(seq 600); do grep -q "^serving" "$dir/out" && break || sleep 0.1; done
    url="$(grep -o 'http://[^ ]*' "$dir/out")"
    : >"$dir/answers"
    for more in '"temperature":0' '"temperature":0.9,"seed":5' \
        '"temperature":1,"top_k":30,"seed":6,"frequency_penalty":0.5'; do
        curl -s "$url/v1/completions" \
            -d "{\"prompt\":\"Once upon a time, there was\",\"max_tokens\":120,$more}" |
            sed -n 's/.*"text":"\(\([^"\\]\|\\.\)*\)".*/\1/p' >>"$dir/answers"
        echo >>"$dir/answers"
    done
    curl -s "$url/metrics" >"$dir/metrics"
    kill -TERM "$pid"
    wait "$pid" || fail "the server ended with $?"
    pid=""
}
metric() { sed -n "s/^deepseek_$1 //p" "$dir/metrics"; }

answers --streams 1
[ "$(wc -l <"$dir/answers")" = 3 ] || fail "not three answers"
mv "$dir/answers" "$dir/plain"
[ "$(metric proposed_tokens_total)" = 0 ] || fail "guesses without being asked"
plain="$(metric steps_total)"

answers --speculate "$model:3" --streams 3
cmp "$dir/plain" "$dir/answers" || fail "a draft model changes the answers"
[ "$(metric accepted_ratio)" = 1 ] || fail "the model does not guess itself: $(metric accepted_ratio)"
[ "$(metric steps_total)" -lt $((plain / 2)) ] || fail "guessing saves no steps"

answers --speculate ngram
cmp "$dir/plain" "$dir/answers" || fail "look-up changes the answers"
[ "$(metric proposed_tokens_total)" -gt 0 ] || fail "nothing was looked up"

"$bin" --model "$model" --speculate "ngram:99" 2>"$dir/err" && fail "99 at once"
grep -q "1 to 15" "$dir/err" || fail "does not say how many"
"$bin" --model "$model" --speculate ":3" 2>"$dir/err" && fail "no model"
"$bin" --model "$model" --speculate "$dir/none" 2>"$dir/err" && fail "a model that is not there"
grep -q "none" "$dir/err" || fail "does not name the missing model"
