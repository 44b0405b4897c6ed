"""Load on a server that speaks OpenAI's API: streams at once, each asking again and again.

    python3 bench/peers/serve_load.py NAME URL [--streams 1,8,32] [--rounds 3] [--prefix 1000] [--answer 64]

Prompts are --prefix tokens and a question of their own. They begin alike in all requests ("shared": the
server may know their keys and values already) or each in its own way ("none"). Prints a line of JSON for
each number of streams and kind: tokens a second of all streams together, and the times to the first token.
Nothing but Python's own library is used.
"""
import argparse
import json
import random
import threading
import time
import urllib.parse
import http.client

WORDS = ("the of and to in a is that for it as was with be by on not he his but at are this have from or had an "
         "they which one you were all her she there would their we him been has when who will no more if out so up").split()


def connect(url):
    parts = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=600)


def post(url, path, body):
    connection = connect(url)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, (answer.status, answer.read()[:500])
    return connection, answer


def count_tokens(url, text):
    connection, answer = post(url, "/tokenize", {"content": text})
    n = len(json.load(answer)["tokens"])
    connection.close()
    return n


def text_of(url, seed, n_tokens):
    """Words that are n_tokens long, nearly."""
    r = random.Random(seed)
    words = [r.choice(WORDS) for _ in range(n_tokens)]
    return " ".join(words[:max(1, n_tokens * n_tokens // max(1, count_tokens(url, " ".join(words))))])


def ask(url, prompt, n_answer):
    """Times of the first token and of the end, and tokens of the answer."""
    begin = time.monotonic()
    first, n = None, 0
    connection, answer = post(url, "/v1/completions", {
        "prompt": prompt, "max_tokens": n_answer, "temperature": 1, "stream": True, "stream_options": {"include_usage": True}})
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        assert "error" not in event, event
        if event.get("usage"):
            n = event["usage"]["completion_tokens"]
        if first is None and event["choices"] and event["choices"][0]["text"]:
            first = time.monotonic() - begin
    connection.close()
    return first if first is not None else time.monotonic() - begin, n


def measure(name, url, n_streams, kind, o):
    shared = text_of(url, 1, o.prefix)
    if kind == "shared":
        ask(url, shared + " warm", 1)
    prompts = [[(shared if kind == "shared" else text_of(url, f"{n_streams} {s} {r}", o.prefix)) + f" {s} {r} " + text_of(url, s + r, 8)
                for r in range(o.rounds)] for s in range(n_streams)]
    warm = [[text_of(url, f"warm {kind} {n_streams} {s}", o.prefix)] for s in range(n_streams)]
    firsts, tokens, failures = [], [], []

    def stream(own):
        try:
            for prompt in own:
                first, n = ask(url, prompt, o.answer)
                firsts.append(first)
                tokens.append(n)
        except Exception as error:  # told at the end
            failures.append(error)

    def run(lists):
        threads = [threading.Thread(target=stream, args=(own,)) for own in lists]
        begin = time.monotonic()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if failures:
            raise failures[0]
        return time.monotonic() - begin
    run(warm)  # what is made when first needed
    firsts.clear()
    tokens.clear()
    elapsed = run(prompts)
    firsts.sort()

    def quantile(q):
        return firsts[min(len(firsts) - 1, int(q * len(firsts)))]
    print(json.dumps({"bench": "serve", "who": name, "streams": n_streams, "prefix": kind, "prefix_tokens": o.prefix,
                      "requests": len(firsts), "tokens_per_s": round(sum(tokens) / elapsed, 1),
                      "first_p50_ms": round(quantile(0.5) * 1e3, 2), "first_p99_ms": round(quantile(0.99) * 1e3, 2)}), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("url")
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefix", type=int, default=1000)
    parser.add_argument("--answer", type=int, default=64)
    o = parser.parse_args()
    for n in map(int, o.streams.split(",")):
        for kind in ("none", "shared"):
            measure(o.name, o.url, n, kind, o)


main()
