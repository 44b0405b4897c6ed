"""The peer of bench_train_step: one training step (forward, backward) in PyTorch on the same shapes.

    python3 bench/peers/pytorch_train.py MODEL BATCH SEQ_LEN fp32|bf16 [--steps N] [--threads N] [--compile]

MODEL is gpt2-124m, demo or tiny (GPT-2 shapes, transformers' GPT2LMHeadModel with SDPA attention).
Needs torch and transformers. Prints one JSON line, as bench_train_step does.
"""
import argparse, json, resource, statistics, time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

SHAPES = {"gpt2-124m": (50257, 12, 768, 12, 1024), "demo": (8192, 6, 320, 5, 256), "tiny": (2048, 4, 128, 4, 256)}

p = argparse.ArgumentParser()
p.add_argument("model", choices=SHAPES)
p.add_argument("batch", type=int)
p.add_argument("seq_len", type=int)
p.add_argument("precision", choices=["fp32", "bf16"])
p.add_argument("--steps", type=int, default=5)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--compile", action="store_true")
a = p.parse_args()

torch.set_num_threads(a.threads)
torch.manual_seed(1)
vocab, layers, width, heads, length = SHAPES[a.model]
model = GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_layer=layers, n_embd=width, n_head=heads, n_positions=length,
                                   resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, attn_implementation="sdpa", use_cache=False))
run = torch.compile(model) if a.compile else model
ids = torch.randint(0, vocab, (a.batch, a.seq_len))


def step():
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=a.precision == "bf16"):
        logits = run(ids).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, vocab), ids.view(-1))
    loss.backward()
    return loss.item()


loss = step()  # warm-up, compilation
times = []
for _ in range(a.steps):
    start = time.monotonic()
    loss = step()
    times.append(time.monotonic() - start)
median = statistics.median(times)
print(json.dumps({"peer": f"torch {torch.__version__}" + (" compiled" if a.compile else ""), "model": a.model,
                  "batch": a.batch, "seq_len": a.seq_len, "precision": a.precision, "step_s": round(median, 4),
                  "tokens_per_s": round(a.batch * a.seq_len / median, 1), "loss": round(loss, 4),
                  "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
