"""Small Llama folders as compressed-tensors writes them, and the logits of the weights that they
stand for: python generate_quantised.py [OUT]. The check of a folder of ours is check_quantised.py.

Needs torch, transformers, compressed-tensors and safetensors.
"""
import os
import sys

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs, QuantizationConfig, QuantizationScheme, apply_quantization_config)
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = torch.tensor([[1, 17, 42, 5, 90, 33, 64, 2]])


def scheme(kind, group_size=32):
    if kind == "int8":
        return QuantizationScheme(
            targets=["Linear"],
            weights=QuantizationArgs(num_bits=8, type="int", strategy="channel", symmetric=True),
            input_activations=QuantizationArgs(num_bits=8, type="int", strategy="token",
                                               dynamic=True, symmetric=True))
    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(
        num_bits=4, type="int", strategy="group", group_size=group_size, symmetric=True))


def fill_scales(module, args):
    w = module.weight.detach()
    parts = w if args.strategy == "channel" else w.unflatten(-1, (-1, args.group_size))
    scale, _ = calculate_qparams(parts.amin(-1), parts.amax(-1), args)
    module.weight_scale.data.copy_(scale.reshape(module.weight_scale.shape))


def quantised(kind, folder, group_size=32, **sizes):
    """A random model, quantised, in the folder; and the same with plain weights of its numbers."""
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(initializer_range=0.2, **sizes)).eval()
    config = QuantizationConfig(config_groups={"group_0": scheme(kind, group_size)}, ignore=["lm_head"],
                                format="int-quantized" if kind == "int8" else "pack-quantized")
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            fill_scales(module, module.quantization_scheme.weights)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    os.remove(os.path.join(folder, "generation_config.json"))
    compressor.decompress_model(model)
    plain = LlamaForCausalLM(model.config).eval()  # whose products know nothing of it
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if n in plain.state_dict()})
    return plain


def main(out):
    for kind in ("int8", "int4"):
        folder = os.path.join(out, kind)
        plain = quantised(kind, folder, vocab_size=96, hidden_size=64, intermediate_size=96,
                          num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                          max_position_embeddings=64, tie_word_embeddings=False)
        with torch.no_grad():
            logits = plain(TOKENS).logits[0]
        save_file({"tokens": TOKENS[0].to(torch.int32), "logits": logits.float().contiguous()},
                  os.path.join(folder, "expected.safetensors"))
        # what the fuzzer starts from
        quantised(kind, os.path.join(out, "seed_" + kind), group_size=8, vocab_size=4, hidden_size=8,
                  intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                  num_key_value_heads=1, max_position_embeddings=16, tie_word_embeddings=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        os.path.dirname(__file__), "../data/goldens/quantised"))
