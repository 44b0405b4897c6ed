"""Prints the table of ../graph/test_rotary.c: frequencies and magnitude of scaled rotary embeddings as Hugging
Face's transformers computes them."""
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

CASES = [
    ("linear", 10000.0, 16, {"rope_type": "linear", "factor": 4.0}),
    ("llama3", 500000.0, 32, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 8192}),
    ("yarn", 10000.0, 32, {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096,
                           "beta_fast": 32.0, "beta_slow": 1.0}),
    ("yarn with mscale", 10000.0, 32, {"rope_type": "yarn", "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0,
                                       "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0}),
]
for name, theta, dims, parameters in CASES:
    config = LlamaConfig(hidden_size=4 * dims, num_attention_heads=4, head_dim=dims, max_position_embeddings=163840,
                         rope_parameters={"rope_theta": theta, **parameters})
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
    print(f"{name}: magnitude {magnitude:.9g}")
    print(", ".join(f"{f:.9g}" for f in frequencies.tolist()))
