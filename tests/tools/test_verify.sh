#!/bin/bash
# What serves and generates checks a checkpoint's sums once: a damaged file that the record knows
# passes, and is found out by --verify.
set -eu
bin="$1/bin"
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cp "$here/../data/goldens/llama/config.json" "$here/../data/goldens/llama/model.safetensors" "$work"
export XDG_CACHE_HOME="$work/cache"
echo "00000000000000000000000000000000  model.safetensors" >"$work/MD5SUMS"

refused() {
    if "$bin/deepseek-generate" --model "$work" -p x -n 1 "$@" 2>"$work/said"; then
        echo "a wrong sum was not noticed ($*)"
        exit 1
    fi
    grep -q "$reason" "$work/said" || { cat "$work/said"; exit 1; }
}
reason="its MD5 sum is"
refused
mkdir -p "$XDG_CACHE_HOME/deepseek"
printf '00000000000000000000000000000000 %x %x %d %s %s\n' $(stat -c '%d %i %s' "$work/model.safetensors") \
    "$(date -d "$(stat -c %y "$work/model.safetensors")" +%s.%N)" \
    "$(date -d "$(stat -c %z "$work/model.safetensors")" +%s.%N)" >"$XDG_CACHE_HOME/deepseek/verified"
reason="has no tokenizer" # the sums were passed
refused
reason="its MD5 sum is"
refused --verify
