"""The small vocabularies of this folder as llama.cpp's converter writes them, for
tests/data_room/test_tokenizer_pieces.c: the expected ids are those of the files they are made of.

    python3 -m venv /tmp/goldens && /tmp/goldens/bin/pip install gguf==0.19.0 sentencepiece==0.2.3 protobuf
    /tmp/goldens/bin/python tests/data/tokenizers/make_gguf.py
"""
import json
import pathlib

import gguf
from sentencepiece import sentencepiece_model_pb2

HERE = pathlib.Path(__file__).parent
NORMAL, CONTROL, GIVEN = 1, 3, 4


def write(name, model, tokens, types, **more):
    w = gguf.GGUFWriter(HERE / f"{name}.gguf", "none")
    w.add_tokenizer_model(model)
    w.add_token_list(tokens)
    w.add_token_types(types)
    for key, value in more.items():
        getattr(w, "add_" + key)(value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def sentencepiece(name, model):
    m = sentencepiece_model_pb2.ModelProto()
    m.ParseFromString((HERE / f"{name}.model").read_bytes())
    more = {}
    if m.normalizer_spec.precompiled_charsmap:
        more["precompiled_charsmap"] = m.normalizer_spec.precompiled_charsmap
    write(name, model, [p.piece for p in m.pieces], [p.type for p in m.pieces], token_scores=[p.score for p in m.pieces],
          add_space_prefix=m.normalizer_spec.add_dummy_prefix, bos_token_id=1, eos_token_id=2,
          remove_extra_whitespaces=m.normalizer_spec.remove_extra_whitespaces, **more)


def byte_level(name, pre):
    t = json.loads((HERE / f"{name}.json").read_text())
    vocab = dict(t["model"]["vocab"])
    types = {}
    for a in t["added_tokens"]:
        vocab[a["content"]] = a["id"]
        types[a["content"]] = CONTROL if a["special"] else GIVEN
    tokens = sorted(vocab, key=vocab.get)
    merges = [" ".join(m) if isinstance(m, list) else m for m in t["model"]["merges"]]
    write(name, "gpt2", tokens, [types.get(x, NORMAL) for x in tokens], tokenizer_pre=pre, token_merges=merges)


def bert():
    words = (HERE / "bert.vocab.txt").read_text().split("\n")[:-1]
    tokens = [w if w[0] == "[" and w[-1] == "]" else w[2:] if w.startswith("##") else "▁" + w for w in words]
    write("bert", "bert", tokens, [NORMAL] * len(tokens))


def main():
    sentencepiece("sp_bpe", "llama")
    sentencepiece("sp_unigram", "t5")
    byte_level("llama3", "llama-bpe")
    bert()


if __name__ == "__main__":
    main()
