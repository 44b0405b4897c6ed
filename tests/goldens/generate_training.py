"""Makes ../data/goldens/qwen3/training.safetensors: twenty AdamW steps of the model in that folder,
clipped by their global norm, by transformers and PyTorch in float64. README.md beside this file
says what is in it."""
import os

import torch
import torch.nn.functional as F
import transformers

from recorder import Recorder

IGNORED = -100
STEPS, BATCH, TOKENS = 20, 3, 12
CLIP, DECAY = 2.75, 0.1
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../data/goldens/qwen3")


def texts(r, vocabulary):
    """Each counts in steps of one to three from anywhere: something to learn."""
    start = r.integers(0, vocabulary, STEPS, BATCH, 1)
    stride = r.integers(1, 4, STEPS, BATCH, 1)
    text = (start + stride * torch.arange(TOKENS + 1)) % vocabulary
    tokens, labels = text[..., :-1], text[..., 1:].clone()
    labels[:, 0, :2] = IGNORED  # where the stride cannot be known
    labels[::2, 2, -4:] = IGNORED  # not as many in each step
    return tokens, labels


def rate(step):  # rises, then falls
    return float(torch.tensor(5e-3 * min(1.0, (step + 1) / 4) * (1 - step / (2 * STEPS)),
                              dtype=torch.float32))


def main():
    r = Recorder(21)
    model = transformers.Qwen3ForCausalLM.from_pretrained(FOLDER).double()
    optimizer = torch.optim.AdamW(
        [{"params": [p], "weight_decay": DECAY if p.dim() > 1 else 0.0}
         for p in model.parameters()], betas=(0.9, 0.95), eps=1e-8)
    tokens, labels = texts(r, model.config.vocab_size)
    losses, norms, rates = [], [], [rate(step) for step in range(STEPS)]
    for step in range(STEPS):
        logits = model(input_ids=tokens[step]).logits
        loss = F.cross_entropy(logits.flatten(0, -2), labels[step].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).detach())
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
        losses.append(loss.detach())
    for name, value in (("tokens", tokens), ("labels", labels), ("rate", torch.tensor(rates)),
                        ("loss", torch.stack(losses)), ("norm", torch.stack(norms))):
        r.keep(name, value)
    for name, p in model.named_parameters():
        r.keep(f"final/{name}", p)
    r.save(os.path.join(FOLDER, "training.safetensors"))
    print("losses", [round(float(x), 4) for x in losses])
    print("clipped", sum(float(n) > CLIP for n in norms), "of", STEPS)


if __name__ == "__main__":
    main()
