"""A peer of bench_generate: llama.cpp, through llama-cpp-python.

    python3 bench/peers/llama_cpp_generate.py FILE.gguf NAME [--threads N]  < CASES

Answers "decode N" and "prefill N" by the same lines of JSON, other cases by words. NAME stands for the model in them.
The likeliest token is taken, by numpy; prompts go through in batches of 512 tokens, llama.cpp's default.
"""
import argparse, ctypes, json, os, random, sys, time

import llama_cpp, numpy

p = argparse.ArgumentParser()
p.add_argument("file")
p.add_argument("name")
p.add_argument("--threads", type=int, default=os.cpu_count())
args = p.parse_args()
kind = os.path.basename(args.file).rsplit(".", 2)[-2]
llm = llama_cpp.Llama(args.file, n_ctx=4096, n_batch=512, n_ubatch=512, n_threads=args.threads,
                      n_threads_batch=args.threads, verbose=False)
vocab = llm.n_vocab()


def evaluate(tokens):
    llm.eval(tokens)
    logits = llama_cpp.llama_get_logits_ith(llm.ctx, -1)
    return int(numpy.ctypeslib.as_array(logits, shape=(vocab,)).argmax())


def prefill(n):
    llm.reset()
    tokens = [random.randrange(vocab) for _ in range(n)]
    start = time.monotonic()
    token = evaluate(tokens)
    return token, time.monotonic() - start


def decode(n):
    token, _ = prefill(16)
    start = time.monotonic()
    for _ in range(n):
        token = evaluate([token])
    return time.monotonic() - start


prefill(16)
print("ready", flush=True)
for line in sys.stdin:
    words = line.split()
    if words[0] not in ("decode", "prefill"):
        print("not for llama.cpp", flush=True)
        continue
    n = int(words[1])
    seconds = decode(n) if words[0] == "decode" else prefill(n)[1]
    print(json.dumps({"who": f"llama.cpp {llama_cpp.__version__} {kind}", "model": args.name, "case": line.strip(),
                      "tokens": n, "seconds": round(seconds, 6)}), flush=True)
