# OpenAI's own Python client against deepseek-serve. $1: the build folder. The client is looked for
# in $DS_PYTHON (a Python that has the package openai), then in python3; absent, the test is skipped.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
model="$here/../../../shared/assets/tinystories656k"
python="${DS_PYTHON:-python3}"
[ -d "$model" ] || { echo "SKIPPED: no $model"; exit 77; }
"$python" -c "import openai" 2>/dev/null || { echo "SKIPPED: $python has no package openai"; exit 77; }
dir="$(mktemp -d)"
pid=""
end() { [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$dir"; }
trap end EXIT

"$1/bin/deepseek-serve" --model "$model" --port 0 --threads 1 --api-key secret >"$dir/out" 2>"$dir/err" &
pid=$!
for _ in $(seq 600); do
    grep -q "^serving" "$dir/out" && break
    sleep 0.1
done
url="$(grep -o 'http://[^ ]*' "$dir/out")" || { cat "$dir/err" >&2; exit 1; }
"$python" "$here/openai_client.py" "$url/v1" secret
kill -TERM "$pid"
wait "$pid"
pid=""
