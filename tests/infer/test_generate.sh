#!/bin/bash
# deepseek-generate on trained models of others: llama2.c's .bin byte for byte, a Hugging Face
# folder, and what it says to wrong arguments.
set -eu
generate=$1/bin/deepseek-generate
assets=$(cd "$(dirname "$0")/../.." && pwd)/../shared/assets
fail() {
    echo "$1"
    exit 1
}
refuses() { # message that must come, then the arguments
    local wanted=$1 said
    shift
    said=$("$generate" "$@" 2>&1) && fail "accepted: $*"
    case $said in
    *"$wanted"*) ;;
    *) fail "said '$said', not '$wanted'" ;;
    esac
}

"$generate" --help >/dev/null
refuses "usage" --prompt hello
refuses "--temperature" --model . --temperature warm
refuses "/nowhere: no such file" --model /nowhere --prompt hello
refuses "exclude each other" --model . --json-schema a --grammar b

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
. "$(dirname "$0")/../support/tiny_model.sh"
tiny_model "$1/bin" "$dir/model"
plain=$("$1/bin/deepseek-tokenize" encode --tokenizer "$dir/model" --stdout --no-end <<<"In the year" | head -n 1 | wc -w)
prompt_tokens() { # tokenizer_config.json
    echo "$1" >"$dir/model/tokenizer_config.json"
    printf 'In the year\n' | "$generate" --model "$dir/model" -n 1 --verbose 2>&1 >"$dir/text" |
        sed -n 's/ prompt tokens.*//p'
}
# marks that begin texts go first; one that begins turns does not, as in deepseek-serve
counts="$(prompt_tokens '{"bos_token": "<|im_start|>"}') $(prompt_tokens '{"bos_token": "<|im_start|>", "add_bos_token": true}')"
first=${counts% *}
[ "$counts" = "$first $((first + 1))" ] || fail "prompt tokens without and with a mark: $counts"
[ "$first" -ge "$plain" ] && [ "$first" -le $((plain + 1)) ] || fail "$first prompt tokens; the text has $plain"

# how to draw is what the folder says, unless an option does or it is not to be asked
said() { "$generate" --model "$dir/model" --prompt "In the year" -n 20 "$@"; }
greedy=$(said --temperature 0)
drawn=$(said)
[ "$greedy" != "$drawn" ] || fail "drawn and greedy alike: $greedy"
echo '{"top_k": 1}' >"$dir/model/generation_config.json"
[ "$(said)" = "$greedy" ] || fail "top_k of generation_config.json"
[ "$(said --top-k 40)" = "$drawn" ] || fail "--top-k against generation_config.json"
[ "$(said --generation-config none)" = "$drawn" ] || fail "--generation-config none"
rm "$dir/model/generation_config.json"

[ -d "$assets/stories260K" ] || { echo "$assets is not here: skipped" && exit 77; }
stories=(--model "$assets/stories260K/stories260K.bin" --tokenizer "$assets/stories260K/tok512.bin")
refuses "tokenizer.bin" --model "$assets/stories260K/stories260K.bin" --prompt hello
# text ends before the first stop string, which comes in several tokens, whoever computes it
said() { "$generate" "${stories[@]}" --prompt Once -n 60 --temperature 0 "$@" && echo .; }
whole=$(said)
cut=${whole%%little girl*} last=${whole: -3:1}
[ "$cut" != "$whole" ] || fail "no little girl in '$whole'"
for more in "--seed 1" "--speculate ngram"; do
    [ "$(said --stop never --stop "little girl" $more)" = "$cut"$'\n.' ] || fail "--stop $more: $(said --stop "little girl")"
    [ "$(said --stop "little giraffe" --stop "${last}never" $more)" = "$whole" ] || fail "what could have become a stop string is lost: $more"
done
refuses "must not be empty" "${stories[@]}" --stop ""
refuses "there is no backend" "${stories[@]}" --device abacus --prompt hello
for device in cpu ref; do
    # the program ends the text with a line end
    "$generate" "${stories[@]}" --device $device --prompt "" -n 200 --temperature 0 |
        cmp - <(cat "$assets/stories260K/expected_greedy_200.txt" && echo)
done
# a prompt that the model would have written itself is continued as the model did
text=$("$generate" "${stories[@]}" --prompt "Once upon a time, there was" -n 30 --temperature 0)
case $(cat "$assets/stories260K/expected_greedy_200.txt") in
"$text"*) [ ${#text} -gt 50 ] || fail "too short: $text" ;;
*) fail "the continuation of a prompt is another: $text" ;;
esac
once=$("$generate" "${stories[@]}" --prompt "" -n 60 --temperature 1 --top-p 0.9 --seed 7)
again=$("$generate" "${stories[@]}" --prompt "" -n 60 --temperature 1 --top-p 0.9 --seed 7 --threads 1)
other=$("$generate" "${stories[@]}" --prompt "" -n 60 --temperature 1 --top-p 0.9 --seed 8)
[ "$once" = "$again" ] || fail "one seed gave two texts"
[ "$once" != "$other" ] || fail "two seeds gave one text"
"$generate" --model "$assets/tinystories656k" --prompt "Once upon a time" -n 20 --verbose 2>&1 |
    grep -q "tokens/s" || fail "no rate was said"
