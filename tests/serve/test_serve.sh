# deepseek-serve as clients meet it: answers, streams, refusals, a key, numbers, clients that go
# away, a full queue, and its end. $1: the build folder.
set -eu
bin="$1/bin/deepseek-serve"
here="$(cd "$(dirname "$0")" && pwd)"
model="$here/../../../shared/assets/tinystories656k"
[ -d "$model" ] || { echo "SKIPPED: no $model"; exit 77; }
command -v curl >/dev/null || { echo "SKIPPED: no curl"; exit 77; }
dir="$(mktemp -d)"
pid=""
end() { [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$dir"; }
trap end EXIT

fail() { echo "FAILED: $*" >&2; cat "$dir/err" >&2; exit 1; }
# Waits until the command succeeds; a minute is far more than any of them takes.
until_true() {
    for _ in $(seq 600); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    fail "never true: $*"
}
start() { # options → $url, $pid
    : >"$dir/out"
    "$bin" --model "$model" --port 0 --threads 1 "$@" >"$dir/out" 2>"$dir/err" &
    pid=$!
    until_true grep -q "^serving" "$dir/out"
    url="$(grep -o 'https\?://[^ ]*' "$dir/out")"
}
stop() {
    kill -TERM "$pid"
    wait "$pid" || fail "the server ended with $?"
    pid=""
}
# Status code; the body in $dir/body.
status() { curl -s -o "$dir/body" -w '%{http_code}' "$@"; }
expect() { # code text curl-arguments…
    want="$1" text="$2"; shift 2
    got="$(status "$@")"
    [ "$got" = "$want" ] || fail "$* gave $got, not $want: $(cat "$dir/body")"
    grep -qF -- "$text" "$dir/body" || fail "$* does not say '$text': $(cat "$dir/body")"
}
field() { sed -n "s/.*\"$1\":\"\(\([^\"\\\\]\|\\\\.\)*\)\".*/\1/p"; }
metric() { curl -s "$url/metrics" | sed -n "s/^deepseek_$1 //p"; }
metric_is() { [ "$(metric "$1")" = "$2" ]; }

"$bin" --help | grep -q -- "--api-key" || fail "--help"
"$bin" --model "$dir/none" 2>"$dir/err" && fail "a model that is not there"
grep -q "none" "$dir/err" || fail "does not name the missing model"

start
echo "a greedy completion is the same each time, and streamed"
ask='{"prompt":"Once upon a time","max_tokens":40,"temperature":0'
a="$(curl -s "$url/v1/completions" -d "$ask}" | field text)"
b="$(curl -s "$url/v1/completions" -d "$ask}" | field text)"
[ -n "$a" ] || fail "no text"
[ "$a" = "$b" ] || fail "two texts: '$a' and '$b'"
case "$a" in *"little girl"*) ;; *) fail "not the story that the model tells: $a" ;; esac
curl -sN "$url/v1/completions" -d "$ask,\"stream\":true,\"stream_options\":{\"include_usage\":true}}" >"$dir/stream"
c="$(field text <"$dir/stream" | tr -d '\n')"
[ "$a" = "$c" ] || fail "streamed '$c', whole '$a'"
[ "$(tail -n 2 "$dir/stream" | head -n 1)" = "data: [DONE]" ] || fail "the stream's end"
grep -q '"usage":{"prompt_tokens":6,"completion_tokens":40,"total_tokens":46}' "$dir/stream" || fail "usage"
[ "$(grep -c '"finish_reason":"length"' "$dir/stream")" -eq 1 ] || fail "finish_reason"

echo "the same seed draws the same, another one another"
draw() { curl -s "$url/v1/completions" -d "{\"prompt\":\"Once\",\"max_tokens\":30,\"seed\":$1}" | field text; }
[ "$(draw 5)" = "$(draw 5)" ] || fail "seed 5 twice"
[ "$(draw 5)" != "$(draw 6)" ] || fail "seeds 5 and 6"

echo "several answers compute their prompt once"
{ printf '{"n":4,"max_tokens":3,"prompt":"'; yes 'and then ' | head -n 40 | tr -d '\n'; printf '"}'; } >"$dir/ask"
before="$(metric prefix_hit_tokens_total)"
expect 200 '"index":3' "$url/v1/completions" --data-binary "@$dir/ask"
tokens="$(sed -n 's/.*"prompt_tokens":\([0-9]*\).*/\1/p' "$dir/body")"
[ "$tokens" -ge 32 ] || fail "a prompt of $tokens tokens is too short to be shared"
# all whole blocks of 16 tokens but the one that holds the last token
[ $(($(metric prefix_hit_tokens_total) - before)) -eq $((3 * ((tokens - 1) / 16 * 16))) ] ||
    fail "of $tokens tokens $(metric prefix_hit_tokens_total) - $before were there already"

echo "stop strings end the text before them, whole and streamed"
expect 200 '"finish_reason":"stop"' "$url/v1/completions" -d "$ask,\"stop\":[\"never\",\"little girl\"]}"
[ "$(field text <"$dir/body")" = "${a%%little girl*}" ] || fail "stop: $(cat "$dir/body")"
c="$(curl -sN "$url/v1/completions" -d "$ask,\"stop\":\"little girl\",\"stream\":true}" | field text | tr -d '\n')"
[ "$c" = "${a%%little girl*}" ] || fail "streamed stop: '$c'"

echo "stop tokens end the text before them"
# the last token of the text up to there
id="$(curl -s "$url/tokenize" -d '{"prompt":"Once upon a time, a little girl named Lily "}' | sed 's/.*,\([0-9]*\)].*/\1/')"
expect 200 '"finish_reason":"stop"' "$url/v1/completions" -d "$ask,\"stop_token_ids\":[$id]}"
part="$(field text <"$dir/body")"
[ "$part" = "${a%%Lily*}" ] || fail "stop_token_ids [$id]: '$part'"
expect 400 "token 99999 is not" "$url/v1/completions" -d "$ask,\"stop_token_ids\":[99999]}"

echo "chat, with log-probabilities"
hello='{"messages":[{"role":"user","content":"Hello"}],"max_tokens":8,"temperature":0'
expect 200 '"role":"assistant"' "$url/v1/chat/completions" -d "$hello,\"logprobs\":true}"
[ "$(grep -o '"logprob":' "$dir/body" | wc -l)" -eq 8 ] || fail "log-probabilities"
whole="$(field content <"$dir/body")"
streamed="$(curl -sN "$url/v1/chat/completions" -d "$hello,\"stream\":true}" | field content | tr -d '\n')"
expect 200 "" "$url/v1/chat/completions" -d "$hello}"
whole="$(field content <"$dir/body")"
[ "$whole" = "$streamed" ] || fail "chat streamed '$streamed', whole '$whole'"

echo "models, tokens, page, health"
expect 200 '"id":"tinystories656k"' "$url/v1/models"
expect 200 '"count":6' "$url/tokenize" -d '{"prompt":"Once upon a time"}'
expect 200 '<!doctype html>' "$url/"
expect 200 '"status":"ok"' "$url/health"
expect 200 '"status":"ready"' "$url/ready"

echo "what is wrong is refused by name, and the server lives"
expect 404 "no such address" "$url/nope"
expect 405 "method" -X DELETE "$url/v1/models"
expect 404 "'gpt-4' is not served here" "$url/v1/completions" -d '{"model":"gpt-4","prompt":"x"}'
expect 400 "no valid JSON" "$url/v1/completions" -d '{'
expect 400 "no valid JSON" -X POST "$url/v1/completions"
expect 400 '"param":"temperature"' "$url/v1/completions" -d '{"prompt":"x","temperature":"hot"}'
expect 400 "token 99999 is not" "$url/v1/completions" -d '{"prompt":[99999]}'
printf '{"prompt":"\377"}' >"$dir/bad"
expect 400 "unable to decode" "$url/v1/completions" --data-binary "@$dir/bad"
head -c 100000 /dev/zero | tr '\0' '[' >"$dir/deep"
expect 400 "deep" "$url/v1/completions" --data-binary "@$dir/deep"
{ printf '{"prompt":"'; yes 'and then ' | head -n 2000 | tr -d '\n'; printf '"}'; } >"$dir/long"
expect 400 "512" "$url/v1/completions" --data-binary "@$dir/long"
expect 403 "other origins" -H "Origin: http://evil.example" "$url/v1/completions" -d '{"prompt":"x"}'
expect 200 "choices" -H "Origin: $url" "$url/v1/completions" -d '{"prompt":"x"}'
head -c 9000000 /dev/zero | tr '\0' ' ' >"$dir/large"
expect 413 "larger than" "$url/v1/completions" --data-binary "@$dir/large"
expect 413 "larger than" -H "Transfer-Encoding: chunked" "$url/v1/completions" --data-binary "@$dir/large"

echo "numbers"
metric_is 'http_requests_total{code="404"}' 2 || fail "metrics: $(metric 'http_requests_total{code="404"}')"
[ "$(metric time_to_first_token_seconds_count)" -ge 8 ] || fail "time to first token"
[ "$(metric generated_tokens_total)" -ge 200 ] || fail "generated tokens"
stop

echo "how to draw is what the model's makers want where a request says nothing"
mkdir "$dir/own"
ln -s "$model"/* "$dir/own/"
rm "$dir/own/generation_config.json"
echo '{"eos_token_id":2,"temperature":0.7,"top_k":1,"top_p":5}' >"$dir/own/generation_config.json"
start --model "$dir/own"
grep -q "top_p of generation_config.json is not in 0 … 1" "$dir/err" || fail "a top_p of 5 is not told of"
silent='{"prompt":"Once upon a time","max_tokens":40,"seed":5'
expect 200 "" "$url/v1/completions" -d "$silent}"
[ "$(field text <"$dir/body")" = "$a" ] || fail "not the likeliest tokens: $(cat "$dir/body")"
expect 200 "" "$url/v1/completions" -d "$silent,\"top_k\":0,\"temperature\":1}"
b="$(field text <"$dir/body")"
[ "$b" != "$a" ] || fail "a request's own top_k"
stop
start --model "$dir/own" --generation-config none
expect 200 "" "$url/v1/completions" -d "$silent}"
[ "$(field text <"$dir/body")" = "$b" ] || fail "--generation-config none: $(cat "$dir/body")"
stop

echo "a client that goes away frees its place at once, streaming or not"
start --max-batch 1 --max-queue 2 --max-tokens 500
expect 200 '"max_model_len":500' "$url/v1/models"
expect 200 '"max_model_len":500' "$url/tokenize" -d '{"prompt":"Once"}'
endless='{"prompt":"Once","max_tokens":480,"temperature":1,"seed":1,"logit_bias":{"2":-100}'
# the model is small: an answer may be there before its client leaves, so it is tried again
for kind in '' ',"stream":true'; do
    before="$(metric disconnects_total)"
    tries=0
    while [ "$(metric disconnects_total)" = "$before" ]; do
        tries=$((tries + 1))
        [ "$tries" -le 50 ] || fail "no disconnect was seen"
        curl -s --max-time 0.02 "$url/v1/completions" -d "$endless$kind}" >"$dir/body" 2>&1 || true
        sleep 0.2
    done
    until_true metric_is requests_running 0
    until_true metric_is requests_waiting 0
    until_true metric_is cache_blocks_in_use 0
done
expect 200 choices "$url/v1/completions" -d '{"prompt":"x"}'

echo "a full queue answers 429 and says when to come again"
# answers that have no room beside each other: 128 into a queue of 2
expect 429 "no room" -D "$dir/head" "$url/v1/completions" -d "$endless,\"n\":128}"
grep -qi "^Retry-After: [0-9]" "$dir/head" || fail "no Retry-After"
until_true metric_is requests_running 0
# and clients that are too many; on a slow machine they may come one after the other, then again
tries=0
while :; do
    tries=$((tries + 1))
    [ "$tries" -le 20 ] || fail "no client was ever sent away"
    clients=""
    for i in $(seq 24); do
        curl -s -D "$dir/head$i" -o "$dir/body$i" "$url/v1/completions" -d "$endless}" &
        clients="$clients $!"
    done
    for client in $clients; do wait "$client" || fail "a client failed"; done
    grep -lq "^HTTP/1.1 429" "$dir"/head[0-9]* && break
done
grep -l "^HTTP/1.1 429" "$dir"/head[0-9]* | while read -r head; do
    grep -qi "^Retry-After: [0-9]" "$head" || fail "no Retry-After"
done
grep -lq "^HTTP/1.1 200" "$dir"/head[0-9]* || fail "none of 24 clients was answered"

stop
echo "the time limit ends what waits too long"
start --max-batch 1 --max-tokens 500 --timeout 0.1
tries=0 clients=""
# 16 answers of 480 tokens take longer than a tenth of a second on any machine of today; if not, more do
while ! grep -lq "time limit" "$dir"/body[0-9]* 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -le 20 ] || fail "no request met the time limit"
    for i in $(seq 16); do
        curl -s "$url/v1/completions" -d "$endless,\"n\":$tries}" >"$dir/body$i" &
        clients="$clients $!"
    done
    for client in $clients; do wait "$client" || fail "a client failed"; done
    clients=""
done
[ "$(metric timeouts_total)" -ge 1 ] || fail "timeouts are not counted"
until_true metric_is requests_running 0
expect 200 choices "$url/v1/completions" -d '{"prompt":"x","max_tokens":1}'
stop

echo "clients that send a byte now and then are cut off, and hold no connection for ever"
start --max-connections 2 --timeout 1
port="${url##*:}"
drip() { # what is sent at once; then more, until the connection ends
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf '%b' "$1" >&3
    for _ in $(seq 300); do
        printf ' ' >&3 || return 0
        sleep 0.1
    done
    return 1
}
: >"$dir/cut"
for request in 'GET /health HTTP/1.1\r\nHost: x\r\nX-Header:' \
    'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n'; do
    (trap '' PIPE; drip "$request" 2>/dev/null && echo cut >>"$dir/cut") &
done
sleep 0.5
curl -s --max-time 0.5 "$url/health" && fail "there was a third connection"
until_true curl -s --max-time 1 -o "$dir/body" "$url/health"
until_true metric_is timeouts_total 2
both_are_cut() { [ "$(wc -l <"$dir/cut")" -eq 2 ]; }
until_true both_are_cut
stop

echo "a client that does not read its stream frees its place"
start --max-tokens 500
many="$endless,\"n\":128,\"stream\":true,\"logprobs\":20}"
exec 3<>"/dev/tcp/127.0.0.1/${url##*:}"
printf 'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s' "${#many}" "$many" >&3
until_true metric_is timeouts_total 1
until_true metric_is requests_running 0
[ "$(metric requests_cancelled_total)" -ge 1 ] || fail "its answers were all written"
exec 3>&-
stop

echo "SIGTERM ends what is at work, not sooner, and takes nothing new"
start --max-batch 1 --max-tokens 500 --drain-timeout 600
# forty answers, one after the other: they are at work for as long as what follows takes
curl -sN "$url/v1/completions" -d "$endless,\"stream\":true,\"n\":40}" >"$dir/stream" &
client=$!
until_true grep -q text "$dir/stream"
expect 200 choices "$url/v1/completions" -d '{"prompt":"x","max_tokens":1,"priority":-1}'
grep -q DONE "$dir/stream" && fail "the lower priority waited for the higher ones"
kill -TERM "$pid"
until_true grep -q "ending; requests at work" "$dir/err"
expect 503 draining "$url/ready"
expect 503 "shutting down" "$url/v1/completions" -d '{"prompt":"x"}'
grep -q DONE "$dir/stream" && fail "the answers were too short for this test"
wait "$pid" || fail "the server ended with $?"
pid=""
wait "$client" || fail "the client was cut off"
grep -q "DONE" "$dir/stream" || fail "the answers were not ended"
[ "$(grep -c '"finish_reason":"\(length\|stop\)"' "$dir/stream")" -eq 40 ] || fail "not all 40 answers were ended"

echo "a key"
start --api-key "s3cret"
expect 401 "key" "$url/v1/models"
expect 401 "key" -H "Authorization: Bearer s3cre" "$url/v1/models"
expect 401 "key" "$url/v1/completions" -d '{"prompt":"x"}'
expect 200 "tinystories" -H "Authorization: Bearer s3cret" "$url/v1/models"
expect 200 "ok" "$url/health"
expect 200 "html" "$url/"
stop
DEEPSEEK_API_KEY=other start
expect 401 "key" "$url/v1/models"
expect 200 "tinystories" -H "Authorization: Bearer other" "$url/v1/models"
stop

if command -v openssl >/dev/null; then
    echo "HTTPS"
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 \
        -subj "/CN=localhost" -addext "subjectAltName=IP:127.0.0.1" 2>"$dir/err"
    start --tls-cert "$dir/cert.pem" --tls-key "$dir/key.pem"
    expect 200 "ok" --cacert "$dir/cert.pem" "$url/health"
    expect 200 "choices" --cacert "$dir/cert.pem" "$url/v1/completions" -d '{"prompt":"x"}'
    stop
fi
echo "passed"
