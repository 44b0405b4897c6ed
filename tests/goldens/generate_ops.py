"""Makes ../data/goldens/ops.safetensors: every op's value and gradient, computed by PyTorch in
float64. README.md beside this file says what is in it."""
import math
import os

import torch
import torch.nn.functional as F

from recorder import Recorder

SEED = 20240
IGNORED = -100


def elementwise(r):
    def unary(name, function, x=None):
        r.case(name, function, x=r.normal(4, 9) if x is None else x)

    positive = r.uniform(0.05, 4, 4, 9)
    unary("exp", torch.exp)
    unary("log", torch.log, positive)
    unary("sqrt", torch.sqrt, positive)
    unary("rsqrt", torch.rsqrt, positive)
    unary("reciprocal", torch.reciprocal, positive)
    unary("square", torch.square)
    unary("abs", torch.abs)
    unary("sin", torch.sin)
    unary("cos", torch.cos)
    wide = r.normal(4, 9, scale=3)  # into the flat parts of the curves
    unary("tanh", torch.tanh, wide)
    unary("sigmoid", torch.sigmoid, wide)
    unary("erf", torch.erf, wide)
    unary("relu", torch.relu, wide)
    unary("silu", F.silu, wide)
    unary("gelu", F.gelu, wide)
    unary("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), wide)

    binaries = {
        "add": torch.add,
        "sub": torch.sub,
        "mul": torch.mul,
        "div": torch.div,
        "maximum": torch.maximum,
        "minimum": torch.minimum,
    }
    shapes = {
        "": ((2, 3, 5), (2, 3, 5)),
        "_row": ((2, 3, 5), (5,)),
        "_column": ((2, 3, 5), (3, 1)),
        "_both": ((2, 1, 5), (3, 1)),
        "_scalar": ((2, 3, 5), ()),
    }
    for name, function in binaries.items():
        for suffix, (a, b) in shapes.items():
            sign = r.integers(0, 2, *b) * 2 - 1  # divisors keep away from 0
            r.case(name + suffix, function,
                   a=r.normal(*a), b=r.uniform(0.5, 2, *b) * sign)
    r.case("select", lambda condition, a, b: torch.where(condition != 0, a, b),
           constants=("condition",), condition=r.integers(0, 2, 4, 5).double(),
           a=r.normal(3, 4, 5), b=r.normal(5))


def views(r):
    r.case("permute", lambda x: x.permute(2, 0, 1), x=r.normal(2, 3, 4))
    r.case("slice", lambda x: x[:, 1:3], x=r.normal(2, 5, 3))
    r.case("broadcast", lambda x: x.expand(4, 2, 3), x=r.normal(2, 1))
    r.case("concat", lambda a, b, c: torch.cat([a, b, c], 1),
           a=r.normal(2, 3, 2), b=r.normal(2, 1, 2), c=r.normal(2, 4, 2))


def reductions(r):
    functions = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin}
    for name, function in functions.items():
        r.case(f"{name}_last", lambda x: function(x, dim=2), x=r.normal(3, 4, 5))
        r.case(f"{name}_first_keep", lambda x: function(x, dim=0, keepdim=True),
               x=r.normal(3, 4, 5))
        r.case(f"{name}_outer", lambda x: function(x, dim=(0, 2)), x=r.normal(3, 4, 5))
        r.case(f"{name}_all", lambda x: function(x, dim=(0, 1, 2)), x=r.normal(3, 4, 5))
    r.case("sum_of_squares", lambda a, b: (a * a).sum() + (b * b).sum(),
           a=r.normal(3, 4), b=r.normal(5))
    r.case("argmax", lambda x: x.argmax(-1), constants=("x",), x=r.normal(3, 4, 11))

    def topk(x):
        values, indices = torch.topk(x, 3, dim=-1, largest=True, sorted=True)
        return {"y": values, "indices": indices}

    r.case("topk", topk, x=r.normal(4, 9))


def products(r):
    m, k, n = 4, 7, 3
    for batch, suffix in (((), ""), ((2, 3), "_batched")):
        for ta in (False, True):
            for tb in (False, True):
                name = f"matmul_{'nt'[ta]}{'nt'[tb]}{suffix}"
                a = r.normal(*batch, *((k, m) if ta else (m, k)))
                b = r.normal(*batch, *((n, k) if tb else (k, n)))
                r.case(name, lambda a, b: (a.mT if ta else a) @ (b.mT if tb else b), a=a, b=b)
    r.case("matmul_shared", torch.matmul, a=r.normal(2, 3, m, k), b=r.normal(k, n))
    r.case("matmul_shared_t", lambda a, b: a @ b.T, a=r.normal(2, 3, m, k), b=r.normal(n, k))

    offsets = [0, 2, 2, 7, 8]  # the second expert has no rows, two rows have no expert

    def grouped(x, w, offsets):
        rows = [x[offsets[e]:offsets[e + 1]] @ w[e] for e in range(len(w))]
        return torch.cat(rows + [torch.zeros(len(x) - offsets[-1], w.shape[2]).double()])

    r.case("grouped_matmul", grouped, x=r.normal(10, 5), w=r.normal(4, 5, 6),
           offsets=torch.tensor(offsets))
    r.case("grouped_matmul_t", lambda x, w, offsets: grouped(x, w.mT, offsets),
           x=r.normal(10, 5), w=r.normal(4, 6, 5), offsets=torch.tensor(offsets))


def indices(r):
    ids = torch.tensor([[1, 4, 1], [8, 0, 1]])
    r.case("embedding", lambda table, ids: F.embedding(ids, table), table=r.normal(9, 4), ids=ids)
    r.case("scatter_add",
           lambda x, ids: torch.zeros(9, 4).double().index_add(0, ids.flatten(), x.reshape(-1, 4)),
           x=r.normal(2, 3, 4), ids=ids)


def softmaxes_and_norms(r):
    r.case("softmax", lambda x: x.softmax(-1), x=r.normal(3, 4, 11))
    r.case("softmax_large", lambda x: x.softmax(-1), x=r.normal(4, 9) + r.normal(4, 1) * 300)
    r.case("log_softmax", lambda x: x.log_softmax(-1), x=r.normal(3, 4, 11))
    r.case("log_softmax_large", lambda x: x.log_softmax(-1),
           x=r.normal(4, 9) + r.normal(4, 1) * 300)
    width = 19
    weight, bias = 1 + r.normal(width, scale=0.3), r.normal(width, scale=0.3)
    r.case("layer_norm", lambda x, weight, bias: F.layer_norm(x, (width,), weight, bias, 1e-5),
           x=r.normal(3, 5, width) + 0.5, weight=weight, bias=bias)
    r.case("layer_norm_no_bias", lambda x, weight: F.layer_norm(x, (width,), weight, None, 1e-5),
           x=r.normal(3, 5, width) - 2, weight=weight)
    r.case("rms_norm", lambda x, weight: F.rms_norm(x, (width,), weight, 1e-6),
           x=r.normal(3, 5, width) + 0.5, weight=weight)


def rotary(x, positions, theta, interleaved, n_dims):
    """x: [batch, tokens, heads, head_dim]; positions: [tokens] or [batch, tokens]."""
    frequencies = theta ** (-torch.arange(0, n_dims, 2).double() / n_dims)
    angles = positions.double()[..., None, None] * frequencies  # [(batch,) tokens, 1, n_dims / 2]
    turned, rest = x[..., :n_dims], x[..., n_dims:]
    if interleaved:
        u, v = turned[..., 0::2], turned[..., 1::2]
    else:
        u, v = turned.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    pair = (u * cos - v * sin, u * sin + v * cos)
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return torch.cat([turned, rest], -1)


def rotaries(r):
    shared = torch.arange(5) + 3
    per_sample = torch.tensor([[0, 1, 2, 3, 4], [40, 41, 42, 1000, 0]])
    for name, positions, theta, interleaved, n_dims in (
            ("rotary_half", shared, 10000.0, False, 8),
            ("rotary_interleaved", shared, 10000.0, True, 8),
            ("rotary_half_per_sample", per_sample, 500000.0, False, 8),
            ("rotary_interleaved_part", per_sample, 10000.0, True, 4)):
        r.case(name, lambda x, positions: rotary(x, positions, theta, interleaved, n_dims),
               x=r.normal(2, 5, 3, 8), positions=positions)


def seen(batch, tokens, keys, lengths, causal, window):
    """[batch, tokens, keys]: which keys a query sees. The last query stands at the last key that
    is not padding, as when the first keys come from a cache."""
    lengths = torch.full((batch,), keys) if lengths is None else lengths
    key = torch.arange(keys)
    own = (lengths[:, None] - tokens + torch.arange(tokens))[..., None]
    mask = (key < lengths[:, None, None]).expand(batch, tokens, keys)
    if causal:
        mask = mask & (key <= own)
    if window:
        mask = mask & (key > own - window)
    return mask


def attention(q, k, v, lengths=None, causal=False, window=0, scale=None):
    """q: [batch, tokens, heads, head_dim]   k, v: [batch, keys, kv_heads, head_dim]"""
    batch, tokens, heads, head_dim = q.shape
    group = heads // k.shape[2]
    k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
    scores = torch.einsum("bthd,bjhd->bhtj", q, k) * (scale or 1 / math.sqrt(head_dim))
    mask = seen(batch, tokens, k.shape[1], lengths, causal, window)[:, None]
    empty = ~mask.any(-1, keepdim=True)  # such a query gives zeros
    weights = scores.masked_fill(~mask & ~empty, -math.inf).softmax(-1).masked_fill(empty, 0)
    if lengths is None and not window and tokens == k.shape[1]:
        fused = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)),
                                               is_causal=causal, scale=scale)
        torch.testing.assert_close(weights @ v.transpose(1, 2), fused)
    return torch.einsum("bhtj,bjhd->bthd", weights, v)


def attentions(r):
    def case(name, tokens, keys, heads, kv_heads, head_dim, v_dim=None, lengths=None,
             batch=2, **options):
        inputs = {
            "q": r.normal(batch, tokens, heads, head_dim),
            "k": r.normal(batch, keys, kv_heads, head_dim),
            "v": r.normal(batch, keys, kv_heads, v_dim or head_dim),
        }
        if lengths:
            inputs["lengths"] = torch.tensor(lengths)
        r.case(name, lambda *tensors: attention(*tensors, **options), **inputs)

    case("attention_full", 7, 7, 3, 3, 8)
    case("attention_causal", 7, 7, 3, 3, 8, causal=True)
    case("attention_cross", 3, 9, 2, 2, 8)
    case("attention_lengths", 7, 7, 2, 2, 8, lengths=[7, 4])
    case("attention_grouped", 7, 7, 4, 2, 8, causal=True)
    case("attention_multi_query", 5, 5, 3, 1, 8, causal=True)
    case("attention_window", 9, 9, 2, 2, 8, causal=True, window=3)
    case("attention_cache", 3, 9, 4, 2, 8, lengths=[9, 5], causal=True)
    case("attention_unseen", 4, 6, 2, 2, 8, lengths=[2, 0], causal=True)
    case("attention_scale", 5, 5, 2, 2, 8, causal=True, scale=0.5)
    case("attention_value_dim", 5, 5, 2, 1, 8, v_dim=6, causal=True)
    case("attention_long", 67, 67, 2, 1, 8, causal=True, batch=1)


def losses(r):
    labels = torch.tensor([[3, IGNORED, 10, 0, 7], [IGNORED] * 5, [1, 1, 9, IGNORED, 4]])

    def cross_entropy(logits, labels):
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED,
                               reduction="sum")
        return {"loss": loss, "count": (labels != IGNORED).sum()}

    r.case("cross_entropy", cross_entropy, logits=r.normal(3, 5, 11, scale=2), labels=labels)
    r.case("linear_cross_entropy",
           lambda x, weight, labels: cross_entropy(x @ weight.T, labels),
           x=r.normal(3, 5, 6), weight=r.normal(11, 6), labels=labels)


def images(r):
    r.case("conv2d_patches", lambda x, weight: F.conv2d(x, weight, stride=4),
           x=r.normal(2, 3, 8, 12), weight=r.normal(5, 3, 4, 4, scale=0.2))
    r.case("conv2d", lambda x, weight, bias: F.conv2d(x, weight, bias, stride=(2, 1),
                                                      padding=(1, 2)),
           x=r.normal(2, 3, 7, 6), weight=r.normal(4, 3, 3, 3, scale=0.3), bias=r.normal(4))


def quantisation(r):
    def steps(x, scale):
        q = x / (scale if scale.dim() == 0 else scale.view(-1, *[1] * (x.dim() - 1)))
        assert ((q - q.floor() - 0.5).abs() > 1e-4).all(), "a tie: f32 may round it either way"
        return q

    def fake(x, scale):
        q = steps(x, scale)
        rounded = q + (q.round() - q).detach()  # straight through …
        inside = q.round().abs() <= 127  # … where nothing was clamped
        y = torch.where(inside, rounded, rounded.detach().clamp(-127, 127))
        y = y * (x / q).detach()
        if scale.dim() == 0:
            theirs = torch.fake_quantize_per_tensor_affine(x.float(), scale.item(), 0, -127, 127)
            torch.testing.assert_close(y.detach().float(), theirs.detach())
        return y

    for name, scale in (("per_tensor", torch.tensor(0.02)),
                        ("per_row", torch.tensor([0.01, 0.02, 0.03, 0.015]))):
        x = r.normal(4, 11)  # some are past 127 steps
        r.case(f"fake_quantise_{name}", fake, constants=("scale",), x=x, scale=scale)
        r.case(f"quantise_{name}",
               lambda x, scale: steps(x, scale).round().clamp(-127, 127).int(),
               constants=("x", "scale"), x=x, scale=scale)


def mixture(r):
    """Mixtral's block: softmax router, the k best weighted to a sum of 1, SwiGLU experts."""
    n_experts, hidden, inner, chosen = 4, 8, 12, 2

    def moe(x, gate, w1, w3, w2):
        rows = x.reshape(-1, hidden)
        probabilities = (rows @ gate.T).softmax(-1)
        best, experts = probabilities.topk(chosen, dim=-1)
        weights = best / best.sum(-1, keepdim=True)
        inside = F.silu(torch.einsum("nh,eih->nei", rows, w1)) * \
            torch.einsum("nh,eih->nei", rows, w3)
        every = torch.einsum("nei,ehi->neh", inside, w2)
        picked = every.gather(1, experts[..., None].expand(-1, -1, hidden))
        share = F.one_hot(experts, n_experts).double().mean((0, 1))
        balance = n_experts * (share * probabilities.mean(0)).sum()
        y = (picked * weights[..., None]).sum(1).reshape(x.shape)
        return {"y": y, "balance": balance, "experts": experts}

    r.case("moe", moe, **{
        "x": r.normal(2, 5, hidden),
        "gate.weight": r.normal(n_experts, hidden, scale=0.5),
        "experts.*.w1.weight": r.normal(n_experts, inner, hidden, scale=0.4),
        "experts.*.w3.weight": r.normal(n_experts, inner, hidden, scale=0.4),
        "experts.*.w2.weight": r.normal(n_experts, hidden, inner, scale=0.4)})
    experts = torch.tensor([[2, 0], [1, 2], [0, 2], [2, 4]])

    def route(experts):
        order = experts.flatten().argsort(stable=True)
        counts = torch.bincount(experts.flatten(), minlength=5)
        return {"order": order, "offsets": torch.cat([torch.zeros(1).long(), counts.cumsum(0)])}

    r.case("moe_route", route, experts=experts)


def more_elementwise(r):
    r.case("neg", torch.neg, x=r.normal(4, 9))
    r.case("scale", lambda x: 1.5 * x, x=r.normal(4, 9))
    r.case("offset", lambda x: x - 0.75, x=r.normal(4, 9))
    whole = r.integers(-2, 3, 4, 9).double()  # with zeros
    r.case("sign", torch.sign, constants=("x",), x=whole)
    r.case("step", lambda x: torch.heaviside(x, torch.zeros(()).double()), constants=("x",),
           x=whole)
    a, b = r.integers(0, 3, 3, 5).double(), r.integers(0, 3, 5).double()  # many are equal
    for name, function in (("equal", torch.eq), ("less", torch.lt)):
        r.case(name, lambda a, b: function(a, b).double(), constants=("a", "b"), a=a, b=b)
    r.case("stop_gradient", lambda x: x * x.detach(), x=r.normal(4, 9))
    r.case("straight_through", lambda value, surrogate: surrogate + (value - surrogate).detach(),
           constants=("value",), value=r.normal(4, 9), surrogate=r.normal(4, 9))


def dequantisation(r):
    q = r.integers(-127, 128, 4, 11)
    for name, scale in (("per_tensor", torch.tensor(0.02)),
                        ("per_row", torch.tensor([0.01, 0.02, 0.03, 0.015]))):
        r.case(f"dequantise_{name}", lambda q, scale: q * scale.reshape(-1, 1).expand(4, 11),
               constants=("scale",), q=q, scale=scale)
    r.case("quantisation_scale", lambda x: x.abs().amax(-1) / 127, constants=("x",),
           x=r.normal(4, 11))


def main():
    r = Recorder(SEED)
    for family in (elementwise, views, reductions, products, indices, softmaxes_and_norms,
                   rotaries, attentions, losses, images, quantisation, mixture,
                   more_elementwise, dequantisation):
        family(r)
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(here, "../data/goldens/ops.safetensors")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    r.save(path)
    print(f"{len(r.tensors)} tensors, {os.path.getsize(path)} bytes: {os.path.normpath(path)}")


if __name__ == "__main__":
    main()
