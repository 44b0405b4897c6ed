"""PyTorch's all-reduce over gloo, measured as bench_allreduce measures ours:
gloo_allreduce.py NAME MOST_BYTES SECONDS, started by deepseek-run."""
import os
import sys
import time

import torch
import torch.distributed as dist

name, most, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
# deepseek-run's own store is at MASTER_PORT
os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) % 60000 + 1024)
torch.set_num_threads(1)
dist.init_process_group("gloo")
data = torch.zeros(most // 4)
size = 4096
while size <= most:
    part, times, n, i = data[: size // 4], [], 3, -1
    while i < n:
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(part)
        if i >= 0:
            times.append(time.perf_counter() - start)
        if i == 2:
            count = torch.tensor(max(3, min(4096, int(seconds / (times[2] + 1e-9)))))
            dist.broadcast(count, 0)
            n = int(count)
        i += 1
    if dist.get_rank() == 0:
        print(f'{{"allreduce": "{name}", "bytes": {size}, "seconds": {sorted(times)[len(times) // 2]:.9f}}}', flush=True)
    size *= 4
dist.destroy_process_group()
