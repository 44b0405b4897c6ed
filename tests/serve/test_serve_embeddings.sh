# deepseek-serve with a sentence encoder: vectors in both encodings, tokens, refusals, what such a
# model does not do. With a Python that has the package openai (in $DS_PYTHON, else python3), that
# client asks too. $1: the build folder.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
model="$here/../data/embeddings/encoder"
python="${DS_PYTHON:-python3}"
command -v curl >/dev/null || { echo "SKIPPED: no curl"; exit 77; }
dir="$(mktemp -d)"
pid=""
end() { [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$dir"; }
trap end EXIT
fail() { echo "FAILED: $*" >&2; cat "$dir/err" >&2; exit 1; }

"$1/bin/deepseek-serve" --model "$model" --name encoder --port 0 --threads 1 >"$dir/out" 2>"$dir/err" &
pid=$!
for _ in $(seq 600); do
    grep -q "^serving" "$dir/out" && break
    sleep 0.1
done
grep -q "embeddings only" "$dir/out" || fail "does not say that it serves embeddings only"
url="$(grep -o 'http://[^ ]*' "$dir/out")"

expect() { # code text address body
    got="$(curl -s -o "$dir/body" -w '%{http_code}' "$url$3" -d "$4")"
    [ "$got" = "$1" ] || fail "$3 $4 gave $got, not $1: $(cat "$dir/body")"
    grep -qF -- "$2" "$dir/body" || fail "$3 $4 does not say '$2': $(cat "$dir/body")"
}
long="$(printf 'deep %.0s' $(seq 60))"

echo "vectors"
expect 200 '"usage":{"prompt_tokens":3,"total_tokens":3}' /v1/embeddings '{"input":"the"}'
cp "$dir/body" "$dir/one"
expect 200 '"index":1' /v1/embeddings '{"input":["the","deep"],"model":"encoder","user":"u"}'
grep -qF "$(sed 's/.*"embedding":\(\[[^]]*\]\).*/\1/' "$dir/one" | cut -c1-9)" "$dir/body" ||
    fail "the first of two texts is not what it is alone"
expect 200 '"embedding":"' /v1/embeddings '{"input":"the","encoding_format":"base64"}'
expect 200 '"prompt_tokens":2' /v1/embeddings '{"input":[5,6]}'
expect 200 '"index":1' /v1/embeddings '{"input":[[5,6],[7]]}'
expect 200 '"prompt_tokens":48' /v1/embeddings "{\"input\":\"$long\",\"truncate\":true}"

echo "refusals"
expect 400 "takes 48" /v1/embeddings "{\"input\":\"$long\"}"
expect 400 "'input' must be" /v1/embeddings '{"input":[]}'
expect 400 "no token id" /v1/embeddings '{"input":[[1,-2]]}'
expect 400 "token 220" /v1/embeddings '{"input":[220]}'
expect 400 "encoding_format" /v1/embeddings '{"input":"a","encoding_format":"hex"}'
expect 400 "dimensions" /v1/embeddings '{"input":"a","dimensions":33}'
expect 400 "no valid JSON" /v1/embeddings '{"input":'
expect 404 "'encoder' is" /v1/embeddings '{"input":"a","model":"other"}'
expect 400 "/v1/embeddings" /v1/chat/completions '{"messages":[{"role":"user","content":"Hello"}]}'
expect 400 "/v1/embeddings" /v1/completions '{"prompt":"Hello"}'

echo "the rest of the server"
curl -s "$url/v1/models" | grep -q '"max_model_len":48' || fail "/v1/models"
curl -s "$url/health" | grep -q '"status":"ok"' || fail "/health"
curl -s "$url/metrics" | grep -q 'deepseek_http_requests_total{code="200"}' || fail "/metrics"
expect 200 '"tokens":' /tokenize '{"prompt":"the deep"}'
for i in $(seq 20); do
    curl -s "$url/v1/embeddings" -d "{\"input\":[\"the deep\",\"light $i\"]}" >"$dir/many$i" &
    waiting="${waiting:-} $!"
done
for one in $waiting; do wait "$one"; done
for i in $(seq 20); do
    grep -q '"index":1' "$dir/many$i" || fail "of 20 at once one got: $(cat "$dir/many$i")"
done
metric() { curl -s "$url/metrics" | sed -n "s/^deepseek_$1 //p"; }
[ "$(metric requests_submitted_total)" = \
    $(($(metric requests_finished_total) + $(metric requests_failed_total))) ] || fail "numbers of requests"
[ "$(metric requests_finished_total)" -ge 26 ] || fail "finished requests"
[ "$(metric requests_failed_total)" -ge 3 ] || fail "failed requests"
[ "$(metric prompt_tokens_total)" -ge 128 ] || fail "tokens"
[ "$(metric steps_total)" -ge 6 ] || fail "batches"
{ printf '{"truncate":true,"input":["x"'; yes ",\"$long\"" | head -n 2000; printf ']}'; } >"$dir/many"
tries=0 seen=""
while [ -z "$seen" ]; do
    tries=$((tries + 1))
    [ "$tries" -le 50 ] || fail "no request was seen at work"
    curl -s -o "$dir/body" "$url/v1/embeddings" --data-binary "@$dir/many" &
    client=$!
    while kill -0 "$client" 2>/dev/null; do
        case "$(curl -s "$url/health")" in *'"running":1'*) seen=1 ;; esac
    done
    wait "$client" || fail "a client failed"
done
[ "$(metric requests_running)" = 0 ] || fail "requests run on"
if "$python" -c "import openai" 2>/dev/null; then
    "$python" "$here/openai_embeddings.py" "$url/v1"
fi
kill -TERM "$pid"
wait "$pid" || fail "the server ended with $?"
pid=""
