"""OpenAI's own client asks deepseek-serve for embeddings.

    python3 tests/serve/openai_embeddings.py http://127.0.0.1:8080/v1
"""
import math
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
model = client.models.list().data[0].id
texts = ["In the beginning", "the light", "the darkness of the deep"]

# the client asks for base64 and decodes it, unless told otherwise
packed = client.embeddings.create(model=model, input=texts)
plain = client.embeddings.create(model=model, input=texts, encoding_format="float")
assert [d.index for d in packed.data] == [0, 1, 2], packed
for a, b in zip(packed.data, plain.data):
    assert len(a.embedding) == 32, a
    assert max(abs(x - y) for x, y in zip(a.embedding, b.embedding)) < 1e-6
    assert abs(math.hypot(*a.embedding) - 1) < 1e-5
assert packed.usage.prompt_tokens == plain.usage.total_tokens > 6, packed.usage

short = client.embeddings.create(model=model, input=texts[0], dimensions=8).data[0].embedding
scale = math.hypot(*packed.data[0].embedding[:8])
assert max(abs(x - y / scale) for x, y in zip(short, packed.data[0].embedding)) < 1e-5, short

for wrong in ({"input": []}, {"input": "a", "dimensions": 1000}, {"input": [[1, 2], "a", [3.5]]}):
    try:
        client.embeddings.create(model=model, **wrong)
    except openai.BadRequestError as e:
        assert e.body["message"], e
    else:
        raise AssertionError(f"{wrong} was accepted")
print("the client is content")
