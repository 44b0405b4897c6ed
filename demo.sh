#!/bin/sh
# The whole way from a book to a model that writes like it, on this machine's CPU: installs what is
# missing, builds, learns a vocabulary, trains about 10 M parameters (see configs/demo.yaml), and
# shows the loss and a sample. Run again: what is done is skipped.
#   ./demo.sh [key=value …]    overrides of configs/demo.yaml, e.g. training.duration=10min
set -eu
cd "$(dirname "$0")"

out="${OUT:-out/demo}"
mkdir -p "$out"
./setup.sh --packages deploy/debian-packages-demo.txt
./setup.sh release
bin=build/release/bin

if [ ! -s "$out/bible.txt" ]; then
    echo "1. The text: the King James Bible, from the package bible-kjv"
    bible -f 'gen1:1-rev22:21' </dev/null | sed -E 's/^[A-Za-z0-9]+:[0-9]+ //' >"$out/bible.txt.part"
    mv "$out/bible.txt.part" "$out/bible.txt"
fi
wc "$out/bible.txt" | awk '{printf "   %s lines, %s words, %.1f MB\n", $1, $2, $3 / 1e6}'

if [ ! -s "$out/tokenizer.json" ]; then
    echo "2. The vocabulary: byte-pair encoding, 8192 tokens"
    "$bin/deepseek-tokenize" train --vocab-size 8192 -o "$out/tokenizer.json" "$out/bible.txt"
fi
if [ ! -s "$out/bible.idx" ]; then
    echo "3. The tokens"
    "$bin/deepseek-tokenize" encode --tokenizer "$out/tokenizer.json" -o "$out/bible" "$out/bible.txt"
fi

echo "4. The training (Ctrl-C saves; ./demo.sh goes on from there)"
DATA="$out/bible" TOKENIZER="$out/tokenizer.json" \
    "$bin/deepseek-train" --config configs/demo.yaml "checkpoint.directory=$out" "$@"

echo
echo "5. What it has learnt: the model goes on from \"And God said\""
"$bin/deepseek-generate" --model "$out" --prompt 'And God said' --max-tokens 120 --verbose

cat <<END

Try next:
  $bin/deepseek-generate --model $out --prompt 'In the beginning' --temperature 0.6
  ./demo.sh training.duration=20min                # train longer: it goes on where it stopped
  $bin/deepseek-train --config configs/demo.yaml --dry-run   # what the run needs, without running
  $bin/deepseek-plan --model deepseek-175b         # what 175 B parameters would need
  (cd $out/checkpoints/step-* && md5sum -c MD5SUMS)          # every checkpoint carries its sums
The loss curve as a picture: $out/loss.svg
END
