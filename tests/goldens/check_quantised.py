"""Reads a folder of deepseek-quantize with transformers and compressed-tensors, and compares the
perplexity of a text with what deepseek-generate says:

    python check_quantised.py DEEPSEEK-GENERATE FOLDER TEXT [TOKENS] [WINDOW]

Weights are the same numbers on both sides; inputs of 8 bits are rounded a little differently
(theirs have 255 steps, ours 254).
"""
import math
import subprocess
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM


def main(generate, folder, text, tokens="2048", window="128"):
    tokens, window = int(tokens), int(window)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    quantised = [n for n, m in model.named_modules() if hasattr(m, "quantization_scheme")]
    assert quantised, "transformers took nothing in it for quantised"
    with open(text) as file:
        ids = Tokenizer.from_file(folder + "/tokenizer.json").encode(
            file.read(), add_special_tokens=False).ids[:tokens]
    loss = count = 0
    for at in range(0, len(ids) - window + 1, window):
        part = torch.tensor([ids[at:at + window]])
        with torch.no_grad():
            logits = model(part).logits[0, :-1].double()
        loss += torch.nn.functional.cross_entropy(logits, part[0, 1:], reduction="sum").item()
        count += window - 1
    theirs = math.exp(loss / count)
    said = subprocess.run([generate, "--model", folder, "--perplexity", text, "-n", str(tokens),
                           "--window", str(window)], check=True, capture_output=True, text=True).stdout
    ours = float(said.split()[1])
    print(f"{folder}: {len(quantised)} modules, perplexity {theirs:.4f} by transformers, {ours:.4f} here")
    assert abs(theirs - ours) < (0.03 if "int-quantized" in str(model.config.quantization_config) else 1e-5) * theirs


if __name__ == "__main__":
    main(*sys.argv[1:])
