# The chat page in headless Chromium. $1: the build folder. Needs chromium, and in $DS_PYTHON or
# python3 the package websockets; absent, the test is skipped. The picture stays in the build folder.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
model="$here/../../../shared/assets/tinystories656k"
python="${DS_PYTHON:-python3}"
[ -d "$model" ] || { echo "SKIPPED: no $model"; exit 77; }
command -v chromium >/dev/null || { echo "SKIPPED: no chromium"; exit 77; }
"$python" -c "import websockets" 2>/dev/null || { echo "SKIPPED: $python has no package websockets"; exit 77; }
dir="$(mktemp -d)"
pid=""
end() { [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$dir"; }
trap end EXIT

"$1/bin/deepseek-serve" --model "$model" --port 0 --threads 1 >"$dir/out" 2>"$dir/err" &
pid=$!
for _ in $(seq 600); do
    grep -q "^serving" "$dir/out" && break
    sleep 0.1
done
url="$(grep -o 'http://[^ ]*' "$dir/out")" || { cat "$dir/err" >&2; exit 1; }
"$python" "$here/chat_page.py" "$url" "$dir/profile" "$1/chat_page.png"
kill -TERM "$pid"
wait "$pid"
pid=""
