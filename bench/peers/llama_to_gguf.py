"""A Hugging Face Llama folder as a GGUF file for llama.cpp, without a vocabulary: token ids in, token ids out.

    python3 bench/peers/llama_to_gguf.py FOLDER FILE [bf16|f16|q8_0|q4_0]

Matrices are written in that type, norms in f32. llama.cpp rotates neighbouring elements of a head where Hugging Face
rotates halves, so rows of the query and key projections change places.
"""
import json, sys

import gguf, numpy, torch
from safetensors import safe_open

folder, path = sys.argv[1:3]
kind = getattr(gguf.GGMLQuantizationType, (sys.argv[3] if len(sys.argv) > 3 else "bf16").upper())
config = json.load(open(f"{folder}/config.json"))
heads, kv_heads, width = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
head_dim = config.get("head_dim") or width // heads
out = gguf.GGUFWriter(path, "llama")
out.add_context_length(config["max_position_embeddings"])
out.add_embedding_length(width)
out.add_block_count(config["num_hidden_layers"])
out.add_feed_forward_length(config["intermediate_size"])
out.add_head_count(heads)
out.add_head_count_kv(kv_heads)
out.add_key_length(head_dim)
out.add_value_length(head_dim)
out.add_rope_dimension_count(head_dim)
out.add_rope_freq_base(config["rope_theta"])
out.add_layer_norm_rms_eps(config["rms_norm_eps"])
out.add_vocab_size(config["vocab_size"])
out.add_tokenizer_model("no_vocab")

NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def name_of(name):
    part = name.removesuffix(".weight").removeprefix("model.")
    if part.startswith("layers."):
        _, layer, rest = part.split(".", 2)
        return f"blk.{layer}.{NAMES[rest]}.weight"
    return {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}[part] + ".weight"


def turned(x, n):
    return x.reshape(n, 2, x.shape[0] // n // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


with safe_open(f"{folder}/model.safetensors", "pt") as file:
    for name in file.keys():
        x = file.get_tensor(name).to(torch.float32).numpy()
        if "q_proj" in name or "k_proj" in name:
            x = turned(x, heads if "q_proj" in name else kv_heads)
        if x.ndim == 1:
            out.add_tensor(name_of(name), x)
        else:
            data = gguf.quants.quantize(numpy.ascontiguousarray(x), kind)
            out.add_tensor(name_of(name), data, raw_dtype=kind)
out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
