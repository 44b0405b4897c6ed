#!/bin/bash
# deepseek-tokenize from a text to token files and back, and what it says when it cannot.
set -eu
bin=$1/bin/deepseek-tokenize
[ -x "$bin" ] || { echo "no $bin: skipped"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

fail() { echo "FAILED: $*"; exit 1; }
refused() { # MESSAGE COMMAND…
    local wanted=$1
    shift
    if "$@" >out.txt 2>err.txt; then fail "accepted: $*"; fi
    grep -q -- "$wanted" err.txt || fail "no \"$wanted\" in: $(cat err.txt)"
}

for i in $(seq 400); do
    printf 'In the beginning, %s was the word, and the wörd wasn'"'"'t 床前 alone.\n\n' "$i"
done >book.txt
printf '{"text": "the beginning"}\n{"text": "the word"}\n' >lines.jsonl

"$bin" --help | grep -q 'Example' || fail "--help does not teach"
"$bin" train --vocab-size 330 -o tokenizer.json book.txt 2>/dev/null
"$bin" train --vocab-size 330 --threads 1 -o again.json book.txt 2>/dev/null
cmp tokenizer.json again.json || fail "training depends on the number of threads"

"$bin" encode -o pair book.txt lines.jsonl 2>report.txt
grep -q 'in 3 documents' report.txt || fail "$(cat report.txt)"
[ $(($(stat -c %s pair.bin) % 2)) = 0 ] && [ -s pair.idx ] || fail "no token files"

"$bin" encode --stdout book.txt | "$bin" decode | cmp - book.txt || fail "text did not come back"
[ "$(printf 'the word' | "$bin" encode --stdout | "$bin" decode)" = 'the word' ] || fail "stdin"
[ "$(printf '<|endoftext|>' | "$bin" encode --stdout)" = '0 ' ] || fail "special token not found"
[ "$(printf '<|endoftext|>' | "$bin" encode --plain --stdout | wc -w)" -gt 1 ] || fail "--plain"

refused 'nowhere.txt' "$bin" train nowhere.txt
refused 'threads 1.5: should be a whole number' "$bin" train --threads 1.5 book.txt
refused 'vocab-size 12' "$bin" train --vocab-size 12 book.txt
refused 'nowhere.json' "$bin" encode --tokenizer nowhere.json --stdout book.txt
refused '-o PREFIX or --stdout' "$bin" encode book.txt
refused 'is no token id' "$bin" decode 12 x
refused 'outside the vocabulary' "$bin" decode 99999
refused 'is no command' "$bin" encrypt
echo '{"model": ' >broken.json
refused 'broken.json' "$bin" encode --tokenizer broken.json --stdout book.txt
