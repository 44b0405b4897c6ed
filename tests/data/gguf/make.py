"""GGUF files for tests/base/test_gguf.c and tests/models/test_gguf_models.c, written by ggml's own
Python package. To make them again:

    python3 -m venv /tmp/goldens && /tmp/goldens/bin/pip install gguf==0.19.0 numpy safetensors torch transformers
    /tmp/goldens/bin/python tests/data/gguf/make.py

types.gguf    for each element type a tensor of its name, random blocks, and NAME.expected: what the
              package makes of them, as F32
MODEL.gguf    the checkpoints in ../goldens in this format: names, shapes and order of rows as
              llama.cpp's converter leaves them. Where transformers reads such a file, its logits
              are compared with those of the checkpoint before anything is kept.
"""
import json
import pathlib
import sys

import gguf
import numpy as np
import safetensors.numpy
import torch
import transformers

HERE = pathlib.Path(__file__).parent
GOLDENS = HERE.parent / "goldens"
Q = gguf.GGMLQuantizationType


def write_types():
    w = gguf.GGUFWriter(HERE / "types.gguf", "none")
    rng = np.random.default_rng(5)
    # where in a block the f16 scales stand
    scales = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q2_K: [80, 82],
              Q.Q3_K: [108], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208]}
    for kind in [Q.F16, Q.BF16, *scales]:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if kind in scales:
            n = 512 // block
            data = rng.integers(0, 256, (n, size), dtype=np.uint8)
            for at in scales[kind]:
                data[:, at:at + 2] = rng.normal(0, 0.1, n).astype(np.float16).view(np.uint8).reshape(n, 2)
            data = data.reshape(2, -1)
        else:
            data = gguf.quantize(rng.normal(0, 3, (2, 256)).astype(np.float32), kind)
        if kind == Q.F16:
            w.add_tensor(kind.name, data)
        else:
            w.add_tensor(kind.name, data.view(np.uint8).reshape(2, -1), raw_dtype=kind)
        w.add_tensor(kind.name + ".expected", gguf.dequantize(data, kind).astype(np.float32).reshape(2, 256))
    finish(w)


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def paired(x, heads):
    """Rows i and i + half of each head side by side, as ggml rotates them."""
    return np.ascontiguousarray(
        x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape))


def names(architecture, layers):
    return gguf.get_tensor_name_map(architecture, layers)


def add_vocabulary(w, arch, n):
    """Of BERT's make the first words of ../tokenizers/bert.vocab.txt, else single characters and a merge."""
    if arch == "bert":
        words = (HERE.parent / "tokenizers" / "bert.vocab.txt").read_text().split("\n")[:n]
        tokens = [t if t[0] == "[" else t[2:] if t.startswith("##") else "\u2581" + t for t in words]
        w.add_tokenizer_model("bert")
    else:
        tokens = [chr(0x100 + i) for i in range(n)]
        tokens[2] = tokens[0] + tokens[1]
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("gpt-2")
        w.add_token_merges([f"{tokens[0]} {tokens[1]}"])
    w.add_token_list(tokens)
    w.add_token_types([1] * n)


def model_writer(name, arch, c, layers, width, heads, inner, context):
    w = gguf.GGUFWriter(HERE / f"{name}.gguf", arch)
    w.add_block_count(layers)
    w.add_embedding_length(width)
    w.add_head_count(heads)
    w.add_feed_forward_length(inner)
    w.add_context_length(context)
    add_vocabulary(w, arch, c["vocab_size"])
    return w


def llama3_divisors(head_dim):
    """Of the frequencies of Llama 3.1, whose file has them in place of the numbers they come from."""
    c = transformers.LlamaConfig(head_dim=head_dim, max_position_embeddings=131072, rope_parameters={
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})
    frequencies, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](c, "cpu")
    plain = 500000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    return (plain / frequencies).numpy().astype(np.float32)


def kind_of(name, x):
    """Of one file the matrices are in other types."""
    if x.ndim < 2:
        return Q.F32
    return Q.BF16 if "attn" in name else Q.F16


def convert(name, arch, model_arch):
    folder = GOLDENS / name
    c = json.loads((folder / "config.json").read_text())
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    layers = c.get("num_hidden_layers") or c["n_layer"]
    width = c.get("hidden_size") or c["n_embd"]
    heads = c.get("num_attention_heads") or c["n_head"]
    w = model_writer(name, arch, c, layers, width, heads, c.get("intermediate_size") or 4 * width,
                     c.get("max_position_embeddings") or c["n_positions"])
    if "rms_norm_eps" in c:
        kv = c["num_key_value_heads"]
        w.add_head_count_kv(kv)
        w.add_layer_norm_rms_eps(c["rms_norm_eps"])
        head_dim = c.get("head_dim") or width // heads
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
        w.add_rope_dimension_count(head_dim)
        rope = c.get("rope_parameters") or {}
        if name != "llama3":
            w.add_rope_freq_base(rope.get("rope_theta", 10000.0))
        if rope.get("rope_type") == "yarn":
            w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            w.add_rope_scaling_factor(rope["factor"])
            w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            w.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
            w.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    else:
        w.add_layer_norm_eps(c.get("layer_norm_eps") or c["layer_norm_epsilon"])
    if name == "llama3":
        w.add_rope_freq_base(500000.0)
        w.add_tensor("rope_freqs.weight", llama3_divisors(head_dim))
    if arch == "bert":
        w.add_causal_attention(False)
        w.add_pooling_type(gguf.PoolingType.CLS)
    known = names(model_arch, layers)
    for key, x in sorted(tensors.items()):
        if arch == "bert" and (key.startswith("cls.") or "pooler" in key):
            continue
        # the converter takes "bert." off
        target = known.get_name(key.removeprefix("bert.") if arch == "bert" else key, (".weight", ".bias"))
        if target is None:
            sys.exit(f"{name}: {key} has no name in GGUF")
        if arch == "llama" and ".q_proj" in key:
            x = paired(x, heads)
        if arch == "llama" and ".k_proj" in key:
            x = paired(x, kv)
        if arch == "gpt2" and key.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            x = np.ascontiguousarray(x.T)
        kind = kind_of(target, x) if name == "llama3" else Q.F32
        data = gguf.quantize(np.ascontiguousarray(x, dtype=np.float32), kind)
        w.add_tensor(target, data, raw_dtype=kind)
    finish(w)
    return folder


def check(name, folder, overrides):
    """transformers reads the new file as it reads the checkpoint. overrides: what it passes over."""
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    want = transformers.AutoModelForCausalLM.from_pretrained(folder)(tokens).logits
    got = transformers.AutoModelForCausalLM.from_pretrained(HERE, gguf_file=f"{name}.gguf", **overrides)(tokens).logits
    worst = (want - got).abs().max().item()
    print(name, "differs by", worst)
    assert worst < 1e-5, name


def main():
    write_types()
    A = gguf.MODEL_ARCH
    for name, arch, model_arch, overrides in [
            ("llama", "llama", A.LLAMA, {}), ("llama3", "llama", A.LLAMA, None),
            ("qwen2", "qwen2", A.QWEN2, None), ("qwen3", "qwen3", A.QWEN3, {"head_dim": 6}),
            ("gpt2", "gpt2", A.GPT2, {"n_positions": 20}), ("bert", "bert", A.BERT, None)]:
        folder = convert(name, arch, model_arch)
        if overrides is not None:
            check(name, folder, overrides)


if __name__ == "__main__":
    main()
