#!/bin/sh
# deepseek-serve under load: 1, 8 and 32 streams, prompts of 1,000 tokens that begin alike or each in its own
# way. Throughput, and the time to the first token (median and 99 of 100).
#   bench/serve.sh [--json] [--save FILE] [--rounds N] MODEL [STREAMS] [PREFIX] [ANSWER]
# MODEL: what deepseek-serve takes, with room for 1,100 tokens. STREAMS: default 1,8,32. PREFIX, ANSWER: tokens,
# default 1000 and 64. Peer: llama-server of llama.cpp, where LLAMA_SERVER names it and LLAMA_MODEL a GGUF of the
# same model. SERVE_OPTIONS are given to deepseek-serve.
. "$(dirname "$0")/script.sh"
model="${1:?which model? bench/serve.sh --help}" streams="${2:-1,8,32}" prefix="${3:-1000}" answer="${4:-64}"
case "$model" in /*) ;; *) [ ! -e "$called_from/$model" ] || model="$called_from/$model" ;; esac
pid=""
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$work"' EXIT

load() { # NAME URL
    "$python" bench/peers/serve_load.py "$1" "$2" --streams "$streams" --rounds "${rounds:-3}" \
        --prefix "$prefix" --answer "$answer" >>"$lines"
}

stop() {
    kill "$pid"
    wait "$pid" 2>/dev/null || :
    pid=""
}

wait_for() { # COMMAND…: until it succeeds, while the server lives
    until "$@" >/dev/null 2>&1; do
        kill -0 "$pid" 2>/dev/null || { say "the server ended: $(cat "$work/said")"; exit 1; }
        sleep 0.1
    done
}

say "ours"
# shellcheck disable=SC2086 # several options are meant
build/release/bin/deepseek-serve --model "$model" --port 0 --threads "$threads" ${SERVE_OPTIONS:-} \
    >"$work/serving" 2>"$work/said" &
pid=$!
wait_for grep -q '^serving' "$work/serving"
load ours "$(grep -o 'http://[^ ]*' "$work/serving")"
stop
if [ -n "${LLAMA_SERVER:-}" ] && [ -n "${LLAMA_MODEL:-}" ]; then
    say "llama-server"
    port=$((20000 + $$ % 12000))
    "$LLAMA_SERVER" -m "$LLAMA_MODEL" --port "$port" -t "$threads" -np 32 -c $((32 * (prefix + answer + 64))) \
        >"$work/said" 2>&1 &
    pid=$!
    wait_for "$python" -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/health')"
    load llama-server "http://127.0.0.1:$port"
    stop
else
    say "no peer: LLAMA_SERVER and LLAMA_MODEL name none (transformers has no server that batches requests alike)"
fi
show serve
