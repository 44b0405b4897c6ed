"""OpenAI's own client against deepseek-serve: list, complete, chat, stream, cancel, errors.

    python3 tests/serve/openai_client.py http://127.0.0.1:8080/v1 KEY
"""
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0)
model = client.models.list().data[0].id
hello = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]

whole = client.completions.create(model=model, prompt="Once upon a time", max_tokens=20, temperature=0)
assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 20, whole
pieces = client.completions.create(model=model, prompt="Once upon a time", max_tokens=20, temperature=0,
                                   stream=True)
assert "".join(p.choices[0].text for p in pieces) == whole.choices[0].text

chat = client.chat.completions.create(model=model, messages=hello, max_tokens=12, temperature=0,
                                      logprobs=True)
assert chat.choices[0].message.role == "assistant", chat
assert len(chat.choices[0].logprobs.content) == 12, chat
events = list(client.chat.completions.create(model=model, messages=hello, max_completion_tokens=12,
                                             temperature=0, stream=True,
                                             stream_options={"include_usage": True}))
text = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
assert text == chat.choices[0].message.content, (text, chat)
assert events[-1].usage.completion_tokens == 12, events[-1]

several = client.chat.completions.create(model=model, messages=hello, max_tokens=12, temperature=1, seed=7, n=3,
                                         logprobs=True, top_logprobs=4)
assert [c.index for c in several.choices] == [0, 1, 2], several
assert len({c.message.content for c in several.choices}) == 3, several
assert several.usage.completion_tokens == 36, several
assert all(len(t.top_logprobs) == 4 for c in several.choices for t in c.logprobs.content), several
alone = client.chat.completions.create(model=model, messages=hello, max_tokens=12, temperature=1, seed=7)
assert alone.choices[0].message.content == several.choices[0].message.content, (alone, several)
texts = ["", "", ""]
for event in client.chat.completions.create(model=model, messages=hello, max_tokens=12, temperature=1, seed=7, n=3,
                                            stream=True):
    for c in event.choices:
        texts[c.index] += c.delta.content or ""
assert texts == [c.message.content for c in several.choices], (texts, several)
likely = client.completions.create(model=model, prompt="Once upon", max_tokens=3, temperature=0, logprobs=2, n=2,
                                   echo=False).choices[1].logprobs
assert all(len(t) == 2 and max(t.values()) == v for t, v in zip(likely.top_logprobs, likely.token_logprobs)), likely
echoed = client.completions.create(model=model, prompt="Once upon a time", max_tokens=20, temperature=0, echo=True)
assert echoed.choices[0].text == "Once upon a time" + whole.choices[0].text, echoed

with client.chat.completions.create(model=model, messages=hello, max_tokens=400, stream=True) as stream:
    next(iter(stream))  # and leave

for wrong, error in [({"temperature": -1}, openai.BadRequestError), ({"n": 0}, openai.BadRequestError),
                     ({"model": "gpt-4"}, openai.NotFoundError)]:
    try:
        client.chat.completions.create(**{"model": model, "messages": hello, **wrong})
    except error as e:
        assert e.body["message"], e
    else:
        raise AssertionError(f"{wrong} was accepted")
try:
    openai.OpenAI(base_url=sys.argv[1], api_key="wrong").models.list()
except openai.AuthenticationError:
    pass
else:
    raise AssertionError("a wrong key was accepted")
print("the client is content")
