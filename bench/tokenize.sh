#!/bin/sh
# Learning a vocabulary of 8192 tokens from a text, and encoding the text with it on one core: ours and
# Hugging Face's tokenizers in turn, in bytes of text per second.
#   bench/tokenize.sh [--json] [--save FILE] [--rounds N] [TEXT]
# TEXT: plain text; default the King James Bible, from the package bible-kjv. PYTHON names an interpreter
# with tokenizers.
. "$(dirname "$0")/script.sh"
text="${1:-$work/bible.txt}"
case "$text" in /*) ;; *) text="$called_from/$text" ;; esac
if [ $# -eq 0 ]; then
    command -v bible >/dev/null || { say "no text: name one, or install bible-kjv"; exit 1; }
    bible -f 'gen1:1-rev22:21' </dev/null | sed -E 's/^[A-Za-z0-9]+:[0-9]+ //' >"$text"
fi
build/release/bin/deepseek-tokenize train --vocab-size 8192 -o "$work/tokenizer.json" "$text" 2>/dev/null
set -- "$programs/bench_tokenize" "$text" "$work/tokenizer.json" --threads "$threads"
has_peer tokenizers && set -- "$@" ++ "$python" bench/peers/hf_tokenize.py "$text" "$work/tokenizer.json"
round="${rounds:-5}"
while [ "$round" -gt 0 ]; do
    printf 'train 8192\nencode\nencode\nencode\n'
    round=$((round - 1))
done >"$work/cases"
export RAYON_NUM_THREADS="$threads"
"$programs/bench_in_turn" "$@" <"$work/cases" >>"$lines"
show tokenize
