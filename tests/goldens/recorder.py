"""Runs a function in float64 and keeps its inputs, results and gradients as float32.

Inputs are rounded to float32 first, so that what is stored is exactly what was computed with.
"""
import os

import numpy as np
import torch
from safetensors.numpy import save_file


def stored(tensor):
    """As it goes into the file: floats as f32, integers as i32."""
    array = tensor.detach().cpu().numpy()
    kind = np.float32 if array.dtype.kind == "f" else np.int32
    return array.astype(kind, order="C")


class Recorder:
    def __init__(self, seed):
        self.tensors = {}
        self.random = torch.Generator().manual_seed(seed)

    def normal(self, *shape, scale=1.0):
        return torch.randn(shape, generator=self.random, dtype=torch.float64) * scale

    def uniform(self, low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=self.random, dtype=torch.float64)

    def integers(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.random)

    def keep(self, name, tensor):
        assert name not in self.tensors, f"{name}: two tensors of one name"
        if tensor.is_floating_point():
            assert torch.isfinite(tensor).all(), f"{name}: not finite"
        self.tensors[name] = stored(tensor)

    def case(self, name, function, constants=(), **inputs):
        """Keeps NAME/input, NAME/result, NAME/dresult (random) and NAME/dinput.

        function takes the inputs in order and returns one tensor, called y, or a dict of them.
        Integers and the inputs named in constants have no gradient.
        """
        leaves = {}
        for key, value in inputs.items():
            if value.is_floating_point():
                value = value.float().double().requires_grad_(key not in constants)
            leaves[key] = value
            self.keep(f"{name}/{key}", value)
        results = function(*leaves.values())
        if isinstance(results, torch.Tensor):
            results = {"y": results}
        total = torch.zeros((), dtype=torch.float64)
        for key, value in results.items():
            self.keep(f"{name}/{key}", value)
            if value.is_floating_point() and value.requires_grad:
                upstream = self.normal(*value.shape).float().double()
                self.keep(f"{name}/d{key}", upstream)
                total = total + (value * upstream).sum()
        if total.requires_grad:
            total.backward()
        for key, value in leaves.items():
            if value.requires_grad:
                grad = value.grad if value.grad is not None else torch.zeros_like(value)
                self.keep(f"{name}/d{key}", grad)

    def save(self, path):
        save_file(dict(sorted(self.tensors.items())), path, metadata={"format": "pt"})
        os.chmod(path, 0o644)
