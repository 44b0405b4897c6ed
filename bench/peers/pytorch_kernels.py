"""The peer of bench_kernels: PyTorch's own op for each case of kernels.txt.

    python3 bench/peers/pytorch_kernels.py [--threads N] [--seconds S] [--most S] < CASES

Prints "ready", then answers each line by one line of JSON, or by words where PyTorch has no such op. Backward passes
are timed alone, by autograd over a graph that is kept. cross_entropy is projection, loss and both gradients, as ours.
A product that would take longer than --most seconds (bf16 on processors without instructions for it) is not run: its
time is told about, from one with a sixteenth of the rows.
"""
import argparse, json, statistics, sys, time

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "i8": torch.int8}


def random(dtype, *shape):
    if dtype == torch.int8:
        return torch.randint(-100, 100, shape, dtype=dtype)
    return torch.rand(shape, dtype=torch.float32).mul_(2).sub_(1).to(dtype)


def matmul(dtype, sizes, words):
    m, k, n = sizes
    a = random(dtype, k, m).t() if "turned_a" in words else random(dtype, m, k)
    b = random(dtype, n, k).t() if "turned_b" in words else random(dtype, k, n)
    multiply = torch._int_mm if dtype == torch.int8 else torch.mm
    return lambda: multiply(a, b)


def forward_or_backward(run, inputs, words):
    if "backward" not in words:
        def forward():
            with torch.no_grad():
                return run()
        return forward
    for x in inputs:
        x.requires_grad_(True)
    y = run()
    dy = torch.rand_like(y)
    return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


def attention(dtype, sizes, words):
    batch, tokens, heads, dim = sizes
    q, k, v = (random(dtype, batch, tokens, heads, dim) for _ in range(3))
    return forward_or_backward(
        lambda: F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
                                               is_causal="causal" in words), [q, k, v], words)


def layer_norm(dtype, sizes, words):
    x, weight, bias = random(dtype, *sizes), torch.ones(sizes[1], dtype=dtype), torch.zeros(sizes[1], dtype=dtype)
    return forward_or_backward(lambda: F.layer_norm(x, sizes[1:], weight, bias), [x, weight, bias], words)


def rms_norm(dtype, sizes, words):
    x, weight = random(dtype, *sizes), torch.ones(sizes[1], dtype=dtype)
    return forward_or_backward(lambda: F.rms_norm(x, sizes[1:], weight, 1e-5), [x, weight], words)


def cross_entropy(dtype, sizes, words):
    rows, width, classes = sizes
    x, weight = random(dtype, rows, width).requires_grad_(True), random(dtype, classes, width).requires_grad_(True)
    labels = torch.arange(rows) * 31 % classes
    return lambda: torch.autograd.grad(F.cross_entropy(F.linear(x, weight).float(), labels), [x, weight])


def adamw(dtype, sizes, words):
    p = torch.nn.Parameter(random(dtype, sizes[0]))
    p.grad = random(dtype, sizes[0])
    return torch.optim.AdamW([p], lr=1e-4, weight_decay=0.01, fused=True).step


CASES = {"matmul": (matmul, 3), "attention": (attention, 4), "layer_norm": (layer_norm, 2), "rms_norm": (rms_norm, 2),
         "cross_entropy": (cross_entropy, 3), "adamw": (adamw, 1)}


def time_runs(run, budget_s):
    start = time.monotonic()
    run()
    if time.monotonic() - start > 10 * budget_s:
        return time.monotonic() - start
    times, end = [], time.monotonic() + budget_s
    while len(times) < 2 or (len(times) < 1000 and time.monotonic() < end):
        start = time.monotonic()
        run()
        times.append(time.monotonic() - start)
    return statistics.median(times)


def about(build, dtype, sizes, words):
    """Seconds of one run, from fewer rows, without the first run's extra work."""
    run = build(dtype, [sizes[0] // 16] + sizes[1:], words)
    run()
    start = time.monotonic()
    run()
    return 16 * (time.monotonic() - start)


def answer(line, budget_s, most_s):
    name, dtype, *words = line.split()
    build, n_sizes = CASES[name]
    sizes, words, dtype = [int(w) for w in words[:n_sizes]], words[n_sizes:], DTYPES[dtype]
    if name in ("matmul", "cross_entropy") and sizes[0] >= 256:
        expected = about(build, dtype, sizes, words)
        if expected > most_s:
            return {"about_s": float(f"{expected:.2g}")}
    return {"seconds": float(f"{time_runs(build(dtype, sizes, words), budget_s):.4g}")}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--seconds", type=float, default=0.3)
    p.add_argument("--most", type=float, default=20)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    print("ready", flush=True)
    slow = {}  # cases that are not tried again
    for line in sys.stdin:
        line = line.strip()
        try:
            found = slow.get(line) or answer(line, a.seconds, a.most)
            if "about_s" in found:
                slow[line] = found
            print(json.dumps({"who": f"torch {torch.__version__}", "case": line, **found}), flush=True)
        except Exception as e:
            print(f"torch has none of this: {line}: {e}".replace("\n", " "), flush=True)


main()
