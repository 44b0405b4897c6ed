"""A peer of bench_generate: transformers on torch.

    python3 bench/peers/transformers_generate.py FOLDER NAME [--threads N] [--dtypes fp32,bf16]  < CASES

Answers "decode N" and "prefill N" by a line of JSON for each dtype, with the model's own forward pass, its dynamic
cache, SDPA attention, and the likeliest token each time; other cases by words. A dtype whose single token takes over
--most seconds is left out.
"""
import argparse, json, random, sys, time

import torch, transformers

p = argparse.ArgumentParser()
p.add_argument("folder")
p.add_argument("name")
p.add_argument("--threads", type=int, default=torch.get_num_threads())
p.add_argument("--dtypes", type=lambda text: text.split(","), default=["fp32", "bf16"])
p.add_argument("--most", type=float, default=5)
args = p.parse_args()
torch.set_num_threads(args.threads)
torch.set_grad_enabled(False)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
models = {d: transformers.AutoModelForCausalLM.from_pretrained(args.folder, dtype=DTYPES[d]).eval() for d in args.dtypes}


def forward(model, ids, cache):
    out = model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return int(out.logits[0, -1].argmax()), out.past_key_values


def prefill(model, n):
    ids = [random.randrange(model.config.vocab_size) for _ in range(n)]
    start = time.monotonic()
    token, cache = forward(model, ids, None)
    return time.monotonic() - start, token, cache


def decode(model, n):
    _, token, cache = prefill(model, 16)
    start = time.monotonic()
    for _ in range(n):
        token, cache = forward(model, [token], cache)
    return time.monotonic() - start


for d in list(models):
    prefill(models[d], 16)
    if decode(models[d], 1) > args.most:
        print(f"{d} is left out: a token takes over {args.most:g} s", file=sys.stderr)
        del models[d]
print("ready", flush=True)
for line in sys.stdin:
    words = line.split()
    if words[0] not in ("decode", "prefill"):
        print("not for transformers", flush=True)
        continue
    n, best = int(words[1]), None
    for d, model in models.items():
        seconds = decode(model, n) if words[0] == "decode" else prefill(model, n)[0]
        if best is None or seconds < best[0]:
            best = (seconds, d)
    if best is None:
        print("no dtype is fast enough", flush=True)
        continue
    print(json.dumps({"who": f"transformers {transformers.__version__} {best[1]}", "model": args.name,
                      "case": line.strip(), "tokens": n, "seconds": round(best[0], 6)}), flush=True)
