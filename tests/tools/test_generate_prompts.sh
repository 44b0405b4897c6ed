#!/bin/bash
# deepseek-generate --prompts: answers in the order of the prompts, each what the prompt alone gives,
# however many are computed together and whatever is guessed; wrong lines are named and passed over.
set -eu
generate=$1/bin/deepseek-generate
model=$(cd "$(dirname "$0")/../.." && pwd)/../shared/assets/tinystories656k
[ -d "$model" ] || { echo "$model is not here: skipped" && exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() {
    echo "FAILED: $1"
    exit 1
}
run() { "$generate" --model "$model" --temperature 0 -n 40 "$@"; }

for i in $(seq 25); do
    echo "Once upon a time, there was number $((i % 7)). It was"
done >"$dir/prompts"
run --prompts "$dir/prompts" --max-batch-size 8 >"$dir/answers" 2>"$dir/err"
[ ! -s "$dir/err" ] || fail "it says something without being asked: $(cat "$dir/err")"
[ "$(wc -l <"$dir/answers")" = 25 ] || fail "not 25 answers"
[ "$(sed 's/^{"index":\([0-9]*\),.*/\1/' "$dir/answers" | tr '\n' ' ')" = "$(seq -s ' ' 0 24) " ] ||
    fail "not in order"
grep -q '"prompt_tokens":[1-9][0-9]*,"completion_tokens":40}$' "$dir/answers" || fail "no counts"

# the same alone
for i in 2 4; do
    alone=$(run --prompt "$(sed -n "${i}p" "$dir/prompts")")
    text=$(sed -n "${i}p" "$dir/answers" |
        sed 's/.*"prompt":"\([^"]*\)","text":"\(\([^"\\]\|\\.\)*\)".*/\1\2/')
    [ "$(printf '%b' "${text//\\\"/\"}")" = "$alone" ] || fail "'$text' is not '$alone'"
done
run --prompts "$dir/prompts" --max-batch-size 1 | cmp - "$dir/answers" || fail "one at a time differs"
run --prompts - --speculate ngram <"$dir/prompts" | cmp - "$dir/answers" || fail "guesses differ"
run --prompts "$dir/prompts" --speculate "$model:2" -v 2>"$dir/err" | cmp - "$dir/answers" ||
    fail "a draft model differs"
grep -q "25 prompts answered, 1000 tokens, .*100 % of [0-9]* guesses right" "$dir/err" ||
    fail "no summary: $(cat "$dir/err")"

# one prompt, streamed, with guesses
run --prompt "Once upon a time" >"$dir/plain"
run --prompt "Once upon a time" --speculate ngram:5 | cmp - "$dir/plain" || fail "guesses differ"

# JSON lines with settings of their own, and wrong ones among them
cat >"$dir/lines" <<'LINES'
{"prompt": "The dog", "max_tokens": 3, "id": {"any": 1}}

{"prompt": 5}
{"promt": "The dog"}
{"prompt": "The dog", "top_p": 2}
not JSON
{"prompt": "The dog", "max_tokens": 3, "temperature": 1.5, "seed": 4}
LINES
if run --prompts "$dir/lines" >"$dir/answers"; then fail "wrong lines are no failure"; fi
[ "$(wc -l <"$dir/answers")" = 6 ] || fail "not six answers: $(cat "$dir/answers")"
line() { sed -n "$(($1 + 1))p" "$dir/answers" | grep -qF -- "$2" || fail "line $1 lacks $2"; }
line 0 '"id":{"any":1},"prompt":"The dog"'
line 0 '"completion_tokens":3}'
line 1 '"error":"prompt should be a string"'
line 2 "unknown key 'promt'"
line 3 '"error":"top_p should be a number from 0 to 1"'
line 4 '"error":"this is no JSON object'
line 5 '"completion_tokens":3}'
printf 'The dog\n\377\376 bytes\n' >"$dir/bytes"
if run --prompts "$dir/bytes" >"$dir/answers"; then fail "bytes are text"; fi
line 1 '"error":"the prompt is not UTF-8 text"'

refuses() { # message, options
    local wanted=$1 said
    shift
    said=$("$generate" --model "$model" "$@" 2>&1) && fail "accepted: $*"
    case $said in *"$wanted"*) ;; *) fail "said '$said', not '$wanted'" ;; esac
}
refuses "not both" --prompt a --prompts b
refuses "goes with --prompts" --prompt a --max-batch-size 3
refuses "cannot be opened" --prompts "$dir/none"
refuses "1 to 15" --prompt a --speculate ngram:16
