"""The peer of bench_checkpoint: torch.save and torch.load of a model and its AdamW state, in bytes a second.

    python3 bench/peers/pytorch_checkpoint.py N_PARAMETERS FOLDER [ROUNDS]

The file is synced; it is read cold (its pages dropped from the cache first) and warm. Prints one JSON line.
"""
import json, os, statistics, sys, time

import torch

n, folder, rounds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3
path = os.path.join(folder, f"pytorch-checkpoint-{os.getpid()}.pt")
tensors = 96  # of a model as large as GPT-2 124 M, about
state = {kind: [torch.rand(n // tensors) for _ in range(tensors)] for kind in ("model", "exp_avg", "exp_avg_sq")}
size = sum(t.numel() * 4 for ts in state.values() for t in ts)
times = {"write": [], "load_cold": [], "load_warm": []}


def timed(name, run):
    start = time.monotonic()
    run()
    times[name].append(time.monotonic() - start)


def save():
    with open(path, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())


def load():
    loaded = torch.load(path)
    for kind, ts in state.items():  # into the tensors in use, as load_state_dict does
        for to, t in zip(ts, loaded[kind]):
            to.copy_(t)


for _ in range(rounds):
    timed("write", save)
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    timed("load_cold", load)
    timed("load_warm", load)
    os.unlink(path)
print(json.dumps({"who": f"torch {torch.__version__}", "checkpoint": f"{n} parameters", "size_bytes": size,
                  **{f"{k}_bytes_per_s": float(f"{size / statistics.median(t):.4g}") for k, t in times.items()}}))
