"""Tokenizers of Llama 3's and DeepSeek-V3's make in small, and what Hugging Face's `tokenizers` says
of hard texts under them. Read by tests/data_room/test_tokenizer.c. To make them again:

    python3 -m venv /tmp/goldens && /tmp/goldens/bin/pip install tokenizers==0.23.3
    /tmp/goldens/bin/python tests/data/tokenizers/make.py
"""

import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent

# As in meta-llama/Meta-Llama-3-8B.
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# As in deepseek-ai/DeepSeek-V3: three stages.
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]

CORPUS = [
    "In the beginning God created the heaven and the earth. And the earth was without form, and",
    "void; and darkness was upon the face of the deep. And the Spirit of God moved upon the face",
    "of the waters. And God said, Let there be light: and there was light. They'll say it's 1234.",
    "    for (int i = 0; i < 100; i++) {\n\t\tsum += values[i];\n    }\n",
    "天地玄黃 宇宙洪荒 日月盈昃 辰宿列張 はじめに Ünïcödé naïve café",
] * 3

TEXTS = [
    "", " ", "   ", "\n", "\n\n \n", "\t\t x", "a", " a", "the", " the", "beginning", " beginning",
    "The beginning was 1234567 words, they'LL see.", "it's IT'S 'tis", "don't  stop\r\n\r\n  now  ",
    "x=3.14159;y+=2\n", "mixed天地letters12345of9kinds", "天地玄黃宇宙 はじめ12345に", "naïve café\u0301 \u200d\u00a0end", "🤗🏽 emoji",
    "<|begin_of_text|>In the beginning<|end_of_text|>", "a<|eot_id|> b <|eot_id", "a [X] b[X]c  [X]",
    "word sword words word, (word)", "<think>the deep</think>", "!!!???...", "#include <stdio.h>",
    "\u0000\u0001\u007f", "ﬁ ½ Ⅷ ١٢٣٤", "unreachable and unreachables",
]


def splitter(patterns):
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated", False) for p in patterns]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def build(patterns):
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = splitter(patterns)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=380, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    data = json.loads(t.to_str())
    # Words that no merge leads to: ignore_merges finds them where the splitting gives just them, so
    # a word split otherwise has other ids. Every second text is left to the merges.
    vocab = data["model"]["vocab"]
    for text in TEXTS[::2]:
        for stages in ([LLAMA3], DEEPSEEK):
            for word, _ in splitter(stages).pre_tokenize_str(text):
                vocab.setdefault(word, len(vocab))
    assert data["model"]["ignore_merges"] and isinstance(data["model"]["merges"][0], list)
    t = Tokenizer.from_str(json.dumps(data))
    t.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    t.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>"),
                  AddedToken("[X]", lstrip=True, rstrip=True), AddedToken("word", single_word=True)])
    return t


def main():
    for name, patterns in (("llama3", [LLAMA3]), ("deepseek", DEEPSEEK)):
        t = build(patterns)
        data = json.loads(t.to_str())
        begin = t.token_to_id("<|begin_of_text|>")
        data["post_processor"] = {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
             "use_regex": True},
            {"type": "TemplateProcessing",
             "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}}],
             "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
             "special_tokens": {"<|begin_of_text|>": {
                 "id": "<|begin_of_text|>", "ids": [begin], "tokens": ["<|begin_of_text|>"]}}}]}
        text = json.dumps(data, ensure_ascii=False)
        (HERE / f"{name}.json").write_text(text + "\n")
        t = Tokenizer.from_str(text)
        cases = [{"text": s, "ids": t.encode(s, add_special_tokens=False).ids} for s in TEXTS]
        lines = ",\n".join(json.dumps(c) for c in cases)
        (HERE / f"{name}.expected.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
