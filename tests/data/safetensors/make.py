"""Makes reference.safetensors with the reference implementation (pip install safetensors numpy)."""
import os
import numpy as np
from safetensors.numpy import save_file

here = os.path.dirname(os.path.abspath(__file__))
save_file(
    {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 4,
        "a.weight": np.array([[1.0, -2.0]], dtype=np.float16),
        "scale": np.array(0.5, dtype=np.float32),
        "bytes": np.array([1, 2, 255], dtype=np.uint8),
        "signed": np.array([-1, -128], dtype=np.int8),
        "ids": np.array([1, -2, 3], dtype=np.int64),
        "small": np.array([7, -7], dtype=np.int32),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "名 \"quoted\"": np.array([9.0], dtype=np.float32),
    },
    os.path.join(here, "reference.safetensors"),
    metadata={"format": "np"},
)
