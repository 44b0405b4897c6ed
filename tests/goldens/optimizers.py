"""Twenty steps of each optimizer on given gradients, in float64.

AdamW and SGD are torch.optim's own; Lion, Adafactor and Muon are written out from their papers.
"""
import torch

STEPS = 20
# name: shape, whether weight decay applies
PARAMETERS = {"wide": ((4, 7), True), "tall": ((9, 3), True), "bias": ((4,), False)}


def rates(steps=STEPS):
    """A short warm-up, then a fall: an optimizer must take the rate anew at each step."""
    t = torch.arange(steps, dtype=torch.float64)
    return (0.02 * torch.minimum((t + 1) / 4, 1 - (t - 3) / 40)).float().double()


def norm_of(grads):
    return torch.sqrt(sum((g * g).sum() for g in grads.values()))


class Torch:
    """One of torch.optim's, with weight decay for matrices only."""

    def __init__(self, kind, params, weight_decay, **options):
        self.optimizer = kind(
            [{"params": [p], "weight_decay": weight_decay if PARAMETERS[name][1] else 0.0}
             for name, p in params.items()], lr=0.0, **options)
        self.params = params

    def step(self, grads, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for name, p in self.params.items():
            p.grad = grads[name]
        self.optimizer.step()

    def states(self):
        names = {"exp_avg": "adam_m", "exp_avg_sq": "adam_v", "momentum_buffer": "momentum"}
        return {f"{names[key]}/{name}": value
                for name, p in self.params.items()
                for key, value in self.optimizer.state[p].items() if key in names}


class Lion:
    """Chen et al. 2023, Symbolic discovery of optimization algorithms, Algorithm 2."""

    def __init__(self, params, beta1, beta2, weight_decay):
        self.params, self.betas, self.weight_decay = params, (beta1, beta2), weight_decay
        self.m = {name: torch.zeros_like(p) for name, p in params.items()}

    def step(self, grads, lr):
        beta1, beta2 = self.betas
        for name, p in self.params.items():
            g, m = grads[name], self.m[name]
            direction = torch.sign(beta1 * m + (1 - beta1) * g)
            decay = self.weight_decay if PARAMETERS[name][1] else 0.0
            p.copy_(p - lr * (direction + decay * p))
            self.m[name] = beta2 * m + (1 - beta2) * g

    def states(self):
        return {f"lion_m/{name}": m for name, m in self.m.items()}


class Adafactor:
    """Shazeer & Stern 2018, Algorithms 4 and 5, the relative step being lr."""

    def __init__(self, params):
        self.params, self.t, self.state = params, 0, {}

    def step(self, grads, lr):
        self.t += 1
        beta = 1 - self.t ** -0.8
        for name, p in self.params.items():
            square = grads[name] ** 2 + 1e-30
            if p.dim() == 2:
                row = self.mean_of(f"adafactor_row/{name}", square.mean(1, keepdim=True), beta)
                column = self.mean_of(f"adafactor_column/{name}", square.mean(0, keepdim=True),
                                      beta)
                second = row * column / row.mean()
            else:
                second = self.mean_of(f"adafactor_v/{name}", square, beta)
            change = grads[name] / second.sqrt()
            change = change / change.square().mean().sqrt().clamp(min=1.0)
            size = p.square().mean().sqrt().clamp(min=1e-3)
            p.copy_(p - lr * size * change)

    def mean_of(self, name, value, beta):
        self.state[name] = beta * self.state.get(name, torch.zeros_like(value)) + (1 - beta) * value
        return self.state[name]

    def states(self):
        return self.state


def newton_schulz(x, steps=5):
    """About U·Vᵀ of x = U·S·Vᵀ (Jordan et al. 2024), always on the shorter side."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x if wide else x.T


class Muon:
    """Jordan et al. 2024: matrices only; Nesterov momentum, orthogonalised."""

    def __init__(self, params, momentum, weight_decay):
        self.params, self.momentum, self.weight_decay = params, momentum, weight_decay
        self.m = {name: torch.zeros_like(p) for name, p in params.items()}

    def step(self, grads, lr):
        mu = self.momentum
        for name, p in self.params.items():
            m = self.m[name] = mu * self.m[name] + (1 - mu) * grads[name]
            update = newton_schulz((1 - mu) * grads[name] + mu * m)
            update = update * max(1.0, p.shape[0] / p.shape[1]) ** 0.5
            p.copy_(p * (1 - lr * self.weight_decay) - lr * update)

    def states(self):
        return {f"momentum/{name}": m for name, m in self.m.items()}


class Clipped:
    """Scales all gradients so that their global norm is at most max_norm, then steps."""

    def __init__(self, inner, max_norm):
        self.inner, self.max_norm, self.norms = inner, max_norm, []

    def step(self, grads, lr):
        norm = norm_of(grads)
        self.norms.append(norm)
        scale = min(1.0, self.max_norm / norm.item())
        self.inner.step({name: g * scale for name, g in grads.items()}, lr)

    def states(self):
        return {**self.inner.states(), "grad_norm": torch.stack(self.norms)}


def record_optimizers(r):
    start = {name: r.normal(*shape, scale=0.5).float().double()
             for name, (shape, _) in PARAMETERS.items()}
    grads = {name: (r.normal(STEPS, *shape) + 0.5 * r.normal(*shape)).float().double()
             for name, (shape, _) in PARAMETERS.items()}
    for name in PARAMETERS:
        r.keep(f"optimizer/start/{name}", start[name])
        r.keep(f"optimizer/grads/{name}", grads[name])
    r.keep("optimizer/lr", rates())

    def adamw(params):
        return Torch(torch.optim.AdamW, params, 0.1, betas=(0.9, 0.95), eps=1e-8)

    optimizers = {
        "adamw": adamw,
        "adamw_clipped": lambda params: Clipped(adamw(params), 5.0),
        "sgd": lambda params: Torch(torch.optim.SGD, params, 0.1, momentum=0.9),
        "lion": lambda params: Lion(params, 0.9, 0.99, 0.1),
        "adafactor": Adafactor,
        "muon": lambda params: Muon({name: p for name, p in params.items() if p.dim() == 2},
                                    0.95, 0.1),
    }
    for kind, build in optimizers.items():
        params = {name: p.clone() for name, p in start.items()}
        optimizer = build(params)
        for t, lr in enumerate(rates().tolist()):
            optimizer.step({name: g[t].clone() for name, g in grads.items()}, lr)
            if t + 1 in (1, STEPS):
                for name, p in params.items():
                    if kind != "muon" or p.dim() == 2:
                        r.keep(f"{kind}/step{t + 1}/{name}", p)
        for name, value in optimizer.states().items():
            r.keep(f"{kind}/{name}", value)
