"""The peer of bench_train_step: whole training steps in PyTorch on the same shapes.

    python3 bench/peers/pytorch_train.py MODEL BATCH SEQ_LEN fp32|bf16|bf16,fp32 [--steps N] [--threads N]
        [--variants eager,compiled] [--most SECONDS] [--paced]

Forward, backward, clipping by the global norm, fused AdamW, on transformers' own models with SDPA attention:
GPT2LMHeadModel, or BertForPreTraining (masked tokens, of which 15 % are predicted, and next sentence). bf16 is
autocast with fp32 masters, as ours. Precisions and variants share model and optimizer. "compiled" is torch.compile,
and is left out, with the reason on stderr, where it does not work; bf16 is left out where a step would take longer
than --most seconds, which it does on processors without bf16 instructions. Prints one JSON line for each precision
and variant. With --paced it prints "ready" after the warm-up, and does a step of each for each line that it reads
(bench_in_turn).
"""
import argparse, json, resource, statistics, sys, time

import torch
from transformers import BertConfig, BertForPreTraining, GPT2Config, GPT2LMHeadModel

# vocabulary, layers, width, heads, longest sequence
SHAPES = {"gpt2-124m": (50257, 12, 768, 12, 1024), "demo": (8192, 6, 320, 5, 256), "tiny": (2048, 4, 128, 4, 256),
          "bert-large": (30522, 24, 1024, 16, 512)}


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("model", choices=SHAPES)
    p.add_argument("batch", type=int)
    p.add_argument("seq_len", type=int)
    p.add_argument("precisions", type=lambda text: text.split(","))
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--variants", type=lambda text: text.split(","), default=["eager"])
    p.add_argument("--most", type=float, default=60)
    p.add_argument("--paced", action="store_true")
    return p.parse_args()


def build(name):
    vocab, layers, width, heads, length = SHAPES[name]
    if name.startswith("bert"):
        return BertForPreTraining(BertConfig(
            vocab_size=vocab, num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads,
            intermediate_size=4 * width, max_position_embeddings=length, hidden_dropout_prob=0,
            attention_probs_dropout_prob=0, attn_implementation="sdpa"))
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=vocab, n_layer=layers, n_embd=width, n_head=heads, n_positions=length, resid_pdrop=0,
        embd_pdrop=0, attn_pdrop=0, attn_implementation="sdpa", use_cache=False))


def make_loss(model, name, batch, seq_len):
    """A function of a (compiled) model that gives the loss on random tokens."""
    vocab = SHAPES[name][0]
    ids = torch.randint(0, vocab, (batch, seq_len))
    cross_entropy = torch.nn.functional.cross_entropy
    if name.startswith("bert"):
        labels = torch.where(torch.arange(batch * seq_len).view_as(ids) % 20 < 3, ids, -100)
        segments, sentences = torch.zeros_like(ids), torch.zeros(batch, dtype=torch.long)
        return lambda run: run(input_ids=ids, token_type_ids=segments, labels=labels,
                               next_sentence_label=sentences).loss
    return lambda run: cross_entropy(run(ids).logits.view(-1, vocab), ids.view(-1))


def seconds_of_a_step(name, tokens, dtype):
    """About, by the rate of two small products."""
    vocab, layers, width, _, _ = SHAPES[name]
    a, b = torch.rand(256, width).to(dtype), torch.rand(width, width).to(dtype)
    torch.mm(a, b)
    start = time.monotonic()
    torch.mm(a, b)
    torch.mm(a, b.t())
    rate = 4 * 256 * width * width / (time.monotonic() - start)
    return 6 * (12 * layers * width * width + vocab * width) * tokens / rate


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    a = parse()
    base = peak_bytes()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    model = build(a.model).train()
    loss_of = make_loss(model, a.model, a.batch, a.seq_len)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    what = {"model": a.model, "batch": a.batch, "seq_len": a.seq_len}

    def step(precision, run):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(run)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    print("first step", flush=True)
    runs = {}  # (precision, variant): what to run, seconds of each step, last loss
    for precision in a.precisions:
        expected = seconds_of_a_step(a.model, a.batch * a.seq_len, torch.bfloat16) if precision == "bf16" else 0
        if expected > a.most:
            print(json.dumps({"who": f"torch {torch.__version__}", **what, "precision": precision,
                              "skipped": f"a step would take about {expected:.0f} s"}), flush=True)
            continue
        for variant in a.variants:
            run = torch.compile(model) if variant == "compiled" else model
            try:
                step(precision, run)  # warm-up, compilation
                step(precision, run)  # the optimizer's state is there now
                runs[precision, variant] = run, [], []
            except Exception as e:  # no compiler, or a graph that it cannot do
                if variant == "eager":
                    raise
                print(f"pytorch_train: torch.compile does not work here and is left out: {str(e).splitlines()[0]}",
                      file=sys.stderr)

    if a.paced:
        print("ready", flush=True)
    for _ in sys.stdin if a.paced else range(a.steps):
        for (precision, _), (run, times, losses) in runs.items():
            start = time.monotonic()
            losses.append(step(precision, run))
            times.append(time.monotonic() - start)
        if a.paced:
            print("done", flush=True)

    peak = peak_bytes()
    for (precision, variant), (_, times, losses) in runs.items():
        median = statistics.median(times)
        print(json.dumps({
            "who": f"torch {torch.__version__} {variant}", **what, "precision": precision, "steps": len(times),
            "step_s": round(median, 4), "fastest_s": round(min(times), 4),
            "tokens_per_s": round(a.batch * a.seq_len / median, 1), "loss": round(losses[-1], 4),
            "peak_rss_bytes": peak, "before_model_bytes": base}))


main()
