"""A peer of bench_tokenize: Hugging Face's tokenizers, whose core is Rust.

    RAYON_NUM_THREADS=N python3 bench/peers/hf_tokenize.py TEXT TOKENIZER  < CASES

Answers "train N" and "encode" by the same lines of JSON. Learning uses all threads, as ours does, encoding one.
"""
import json, os, sys, time

os.environ["TOKENIZERS_PARALLELISM"] = "true"  # one text at a time is encoded by one thread in any case
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

PIECE_BYTES = 4096
path, tokenizer = sys.argv[1], tokenizers.Tokenizer.from_file(sys.argv[2])
with open(path, "rb") as f:
    text = f.read()
pieces, at = [], 0
while at < len(text):
    end = text.find(b"\n", at + PIECE_BYTES) if len(text) - at > PIECE_BYTES else -1
    pieces.append(text[at : end + 1 if end >= 0 else len(text)].decode())
    at = end + 1 if end >= 0 else len(text)


def train(n):
    learned = tokenizers.Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=n, min_frequency=2, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    learned.train([path], trainer)
    return learned.get_vocab_size()


def encode():
    return sum(len(tokenizer.encode_batch_fast([piece])[0]) for piece in pieces)  # without offsets in the text


print("ready", flush=True)
for line in sys.stdin:
    words = line.split()
    start = time.monotonic()
    tokens = train(int(words[1])) if words[0] == "train" else encode()
    print(json.dumps({"who": f"tokenizers {tokenizers.__version__}", "case": words[0], "bytes": len(text),
                      "tokens": tokens, "seconds": round(time.monotonic() - start, 6)}), flush=True)
