"""Twenty steps of each optimizer by other implementations, in double precision.

Writes optimizers.safetensors beside this file. Needs torch >= 2.9, lion-pytorch, safetensors.
"""

import os

import torch
from lion_pytorch import Lion
from safetensors.torch import save_file

STEPS, CLIP, DECAY = 20, 1.0, 0.1
SHAPES = {  # two hidden matrices, an embedding, a bias (which does not decay)
    "blocks.0.weight": (5, 6),
    "blocks.1.weight": (9, 3),
    "wte.weight": (7, 4),
    "blocks.0.bias": (5,),
}
HIDDEN = ("blocks.0.weight", "blocks.1.weight")
ADAMW_RATIO = 0.015


class Float64Muon(torch.optim.Muon):
    """torch's Muon iterates in bfloat16; the formula is wanted here, not the rounding."""

    def step(self, closure=None):
        low, torch.bfloat16 = torch.bfloat16, torch.float64
        try:
            return super().step(closure)
        finally:
            torch.bfloat16 = low


def groups(params, names, **extra):
    """One group per parameter: the bias does not decay."""
    return [
        {"params": [params[n]], "weight_decay": 0.0 if n.endswith("bias") else DECAY, **extra}
        for n in names
    ]


def muon(params):
    rest = [n for n in SHAPES if n not in HIDDEN]
    return [
        Float64Muon(groups(params, HIDDEN), momentum=0.95, weight_decay=DECAY),
        torch.optim.AdamW(groups(params, rest, ratio=ADAMW_RATIO), betas=(0.9, 0.95), eps=1e-10),
    ]


OPTIMIZERS = {  # name: (peak learning rate, maker)
    "adamw": (1e-2, lambda p: [torch.optim.AdamW(groups(p, SHAPES), betas=(0.9, 0.95), eps=1e-8)]),
    "sgd": (1e-1, lambda p: [torch.optim.SGD(groups(p, SHAPES), lr=1, momentum=0.9)]),
    "lion": (1e-2, lambda p: [Lion(groups(p, SHAPES), betas=(0.9, 0.99))]),
    "adafactor": (1e-2, lambda p: [torch.optim.Adafactor(groups(p, SHAPES), eps=(1e-15, 1e-3))]),
    "muon": (2e-2, muon),
}


def rate(peak, step):  # any course will do: rises, then falls
    return peak * min(1.0, (step + 1) / 5) * (1 - step / (2 * STEPS))


def main():
    torch.manual_seed(20)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float32)
    initial = {n: 0.5 * draw(*s) for n, s in SHAPES.items()}
    # the size of the gradients varies from step to step, so that only some steps are clipped
    size = torch.exp(torch.linspace(-3, 0, STEPS))[torch.randperm(STEPS)]
    gradients = {
        n: draw(STEPS, *s) * size.reshape(-1, *[1] * len(s)) for n, s in SHAPES.items()
    }
    out = {f"initial/{n}": t for n, t in initial.items()}
    out |= {f"gradients/{n}": t for n, t in gradients.items()}
    for kind, (peak, make) in OPTIMIZERS.items():
        params = {n: torch.nn.Parameter(t.double()) for n, t in initial.items()}
        optimizers = make(params)
        path = {n: [] for n in SHAPES}
        norms, rates = [], []
        for step in range(STEPS):
            for n, p in params.items():
                p.grad = gradients[n][step].double()
            norms.append(float(torch.nn.utils.clip_grad_norm_(params.values(), CLIP)))
            rates.append(float(torch.tensor(rate(peak, step), dtype=torch.float32)))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rates[-1] * group.get("ratio", 1.0)
                optimizer.step()
            for n, p in params.items():
                path[n].append(p.detach().float().clone())
        out |= {f"{kind}/{n}": torch.stack(ps) for n, ps in path.items()}
        out[f"rate/{kind}"] = torch.tensor(rates)
        out["norm"] = torch.tensor(norms)
        print(kind, {n: float((ps[-1] - initial[n]).norm()) for n, ps in path.items()})
    here = os.path.dirname(os.path.abspath(__file__))
    save_file(out, os.path.join(here, "optimizers.safetensors"))
    print("clipped", int((out["norm"] > CLIP).sum()), "of", STEPS)


if __name__ == "__main__":
    main()
