"""Small WordPiece, Unigram and SentencePiece vocabularies, and what Hugging Face's `tokenizers` and
Google's `sentencepiece` say of hard texts under them. Read by tests/data_room/test_tokenizer_pieces.c.

    python3 -m venv /tmp/goldens && /tmp/goldens/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3
    /tmp/goldens/bin/python tests/data/tokenizers/make_pieces.py [LLAMA2_MODEL]

LLAMA2_MODEL is ../shared/assets/llama2_sp/tokenizer.model; of it only the expected ids are kept.
"""
import json
import pathlib
import sys
import tempfile

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers, Regex

HERE = pathlib.Path(__file__).parent

CORPUS = [
    "In the beginning God created the heaven and the earth. And the earth was without form, and",
    "void; and darkness was upon the face of the deep. And the Spirit of God moved upon the face",
    "of the waters. And God said, Let there be light: and there was light. They'll say it's 1234.",
    "And God saw the light, that it was good: and God divided the light from the darkness.",
    "天地玄黃 宇宙洪荒 日月盈昃 辰宿列張 はじめに Ünïcödé naïve café",
] * 4

TEXTS = [
    "", " ", "   ", "\n", "\n\n \n", "\t\t x", "a", " a", "the", " the", "beginning", "  beginning  of ",
    "The beginning was 1234567 words, they'LL see.", "it's IT'S 'tis", "don't  stop\r\n\r\n  now  ",
    "x=3.14159;y+=2\n", "mixed天地letters12345of9kinds", "天地玄黃宇宙 はじめ12345に", "naïve CAFÉ cafe\u0301 \u00a0end",
    "🤗🏽 emoji 👩\u200d👩\u200d👧", "\u0001\u007f\u0085\u00ad\u200b\ufeff|", "ﬁ ½ Ⅷ ١٢٣٤ ＡＢＣ", "İstanbul ıŞĞ ΣΑΣ ẞ",
    "unreachable and unreachables", "a▁b ▁ ▁▁c▁", "heaven,earth;light!?(deep)[void]{face}", "aaaaaaaaaaaaaaaaaaaaaaaa",
    "lightlightlightlight" * 6, "[CLS] in the [MASK] [sep]", "\u2028line\u2029paragraph\u3000wide", "한국어 नमस्ते ไทย",
    "<s>the</s> <unk> <0x41>",
]


def save(name, cases):
    (HERE / name).write_text(json.dumps(cases, ensure_ascii=True, indent=0) + "\n")


def huggingface(name, t, trainer):
    t.train_from_iterator(CORPUS, trainer)
    data = json.loads(t.to_str())
    if name == "bert":
        t.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[(m, t.token_to_id(m)) for m in ("[CLS]", "[SEP]")])
        data = json.loads(t.to_str())
    (HERE / f"{name}.json").write_text(json.dumps(data, ensure_ascii=False, indent=0) + "\n")
    t = Tokenizer.from_file(str(HERE / f"{name}.json"))
    save(f"{name}.expected.json", [
        {"text": text, "ids": t.encode(text, add_special_tokens=False).ids, "marked": t.encode(text).ids,
         "decoded": t.decode(t.encode(text).ids)} for text in TEXTS])


def bert():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    huggingface("bert", t, trainers.WordPieceTrainer(vocab_size=220, special_tokens=marks, show_progress=False))
    vocab = sorted(t.get_vocab().items(), key=lambda item: item[1])
    (HERE / "bert.vocab.txt").write_text("".join(word + "\n" for word, _ in vocab))


def unigram():
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([
        normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    huggingface("unigram", t, trainers.UnigramTrainer(
        vocab_size=160, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False))


def sentencepieces():
    with tempfile.TemporaryDirectory() as folder:
        corpus = pathlib.Path(folder, "corpus.txt")
        corpus.write_text("\n".join(CORPUS) + "\n")
        rules = pathlib.Path(folder, "rules.tsv")  # characters to characters, in hexadecimal
        rules.write_text("".join(f"{a}\t{b}\n" for a, b in [
            ("FB01", "66 69"), ("BD", "31 2044 32"), ("2167", "56 49 49 49"), ("FF21", "41"), ("65 301", "E9"),
            ("9", "20"), ("3000", "20"), ("200B", ""), ("41 42", "43")]))
        for name, options in {
            "sp_unigram": dict(model_type="unigram", normalization_rule_tsv=str(rules)),
            "sp_bytes": dict(model_type="unigram", byte_fallback=True, normalization_rule_name="identity",
                             remove_extra_whitespaces=False, vocab_size=420),
            "sp_bpe": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
                           remove_extra_whitespaces=False, vocab_size=440),
            "sp_bpe_bare": dict(model_type="bpe", normalization_rule_name="identity", add_dummy_prefix=False),
        }.items():
            prefix = pathlib.Path(folder, name)
            sentencepiece.SentencePieceTrainer.train(
                input=str(corpus), model_prefix=str(prefix), minloglevel=2,
                **{"vocab_size": 170, "hard_vocab_limit": False, **options})
            (HERE / f"{name}.model").write_bytes(prefix.with_suffix(".model").read_bytes())
            expect_sentencepiece(name, str(prefix.with_suffix(".model")))


def expect_sentencepiece(name, path):
    p = sentencepiece.SentencePieceProcessor(model_file=path)
    save(f"{name}.expected.json", [{"text": t, "ids": p.encode(t), "decoded": p.decode(p.encode(t))} for t in TEXTS])


def main():
    bert()
    unigram()
    sentencepieces()
    if len(sys.argv) > 1:
        expect_sentencepiece("llama2_sp", sys.argv[1])


if __name__ == "__main__":
    main()
