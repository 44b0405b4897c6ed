"""Answers of a given form: random schemas, each answered by a model that says nothing sensible, and
each answer must validate. Then grammars, tools that must be called, and refusals.

    python3 tests/serve/json_forms.py http://127.0.0.1:8080 MODEL-NAME

Needs the package jsonschema. Requests go out eight at a time.
"""
import concurrent.futures
import json
import random
import re
import sys
import urllib.error
import urllib.request

import jsonschema

url, model = sys.argv[1:3]
N_SCHEMAS = 200


def post(path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ask(seed, **more):
    body = {"model": model, "messages": [{"role": "user", "content": "Ann?"}], "seed": seed, "temperature": 1.3,
            "max_tokens": 3500, **more}
    status, answer = post("/v1/chat/completions", body)
    assert status == 200, (status, answer, body)
    return answer["choices"][0]


# ---- random schemas, of which every text is short --------------------------------------------------

def text_schema(r):
    kind = r.randrange(4)
    if kind == 0:
        low = r.randrange(4)
        return {"type": "string", "minLength": low, "maxLength": low + r.randrange(6)}
    if kind == 1:
        return {"type": "string", "pattern": r.choice([r"^[a-z]{1,4}$", r"^\d{2}-[A-F]+x?$".replace("+", "{1,3}"),
                                                       r"^(?:ja|nein|é{1,2})$", r"^[^a-z\"]{2}\\?$"])}
    if kind == 2:
        return {"type": "string", "format": r.choice(["date", "time", "date-time", "uuid", "ipv4", "email"])}
    return {"type": "string", "enum": r.sample(["red", "green", "a\"b", "c\\d", "世界", ""], r.randrange(1, 4))}


def number_schema(r):
    if r.random() < 0.3:
        return {"type": "number", **({"minimum": 0} if r.random() < 0.5 else {})}
    low = r.randrange(-300, 300)
    return {"type": "integer", **({"minimum": low} if r.random() < 0.7 else {}),
            **({"maximum": low + r.randrange(1000)} if r.random() < 0.7 else {})}


def object_schema(r, depth):
    names = r.sample(["a", "ab", "abc", "name", "é", "x\"y", "", "value", "n1"], r.randrange(5))
    schema = {"type": "object", "properties": {n: random_schema(r, depth - 1) for n in names},
              "required": [n for n in names if r.random() < 0.6]}
    if r.random() < 0.4:
        schema["additionalProperties"] = False
    return schema


def random_schema(r, depth):
    kinds = ["text", "number", "word", "const"] + (["object", "array", "any", "types"] if depth > 0 else [])
    kind = r.choice(kinds)
    if kind == "text":
        return text_schema(r)
    if kind == "number":
        return number_schema(r)
    if kind == "word":
        return {"type": r.choice(["null", "boolean"])}
    if kind == "const":
        return {"const": r.choice([1, -2.5, "x", None, True, [1, "a"], {"k": [{}]}])}
    if kind == "object":
        return object_schema(r, depth)
    if kind == "array":
        low = r.randrange(3)
        return {"type": "array", "items": random_schema(r, depth - 1), "minItems": low, "maxItems": low + r.randrange(4)}
    if kind == "any":
        return {"anyOf": [random_schema(r, depth - 1) for _ in range(r.randrange(1, 4))]}
    return {"type": r.sample(["null", "boolean", "integer", "string"], 2), "maxLength": 5}


def check_schema(seed):
    r = random.Random(seed)
    inner = random_schema(r, 3)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A form", **inner}
    if r.random() < 0.2:
        schema = {"$defs": {"the form": inner}, "$ref": "#/$defs/the%20form"}
    choice = ask(seed, response_format={"type": "json_schema", "json_schema": {"name": "f", "schema": schema}})
    text = choice["message"]["content"]
    assert choice["finish_reason"] == "stop", (seed, schema, choice)
    try:
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator,
                            format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {schema}: {text}: {error}") from error


def check_open_forms():
    """Forms without a longest text: an answer may be cut, but what ends by itself is whole."""
    tree = {"$defs": {"n": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [
        {"$ref": "#/$defs/n"}, {"type": "null"}]}}, "required": ["v", "next"]}}, "$ref": "#/$defs/n"}
    n_whole = 0
    for seed in range(6):
        for form in [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": tree}}]:
            choice = ask(seed, response_format=form, max_tokens=400, temperature=0.7)
            if choice["finish_reason"] == "stop":
                value = json.loads(choice["message"]["content"])
                assert isinstance(value, dict), choice
                n_whole += 1
    assert n_whole > 0, "no open form ended"


TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather",
                                           "parameters": {"type": "object", "properties": {
                                               "city": {"type": "string", "maxLength": 8},
                                               "days": {"type": "integer", "minimum": 1, "maximum": 9}},
                                               "required": ["city", "days"], "additionalProperties": False}}},
         {"type": "function", "function": {"name": "now"}}]


def check_tools():
    names = set()
    for seed in range(8):
        choice = ask(seed, tools=TOOLS, tool_choice="required")
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None, choice
        call, = choice["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        names.add(call["function"]["name"])
        if call["function"]["name"] == "get_weather":
            jsonschema.validate(arguments, TOOLS[0]["function"]["parameters"])
        else:
            assert call["function"]["name"] == "now" and arguments == {}, call
    assert names == {"get_weather", "now"}, names
    named = {"type": "function", "function": {"name": "now"}}
    choice = ask(1, tools=TOOLS, tool_choice=named)
    call, = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "now", "arguments": "{}"}, call
    # and the conversation goes on with it
    talk = [{"role": "user", "content": "Now?"}, choice["message"],
            {"role": "tool", "tool_call_id": call["id"], "content": "noon"}]
    assert ask(1, messages=talk, tools=TOOLS, max_tokens=5)["message"]["content"] is not None
    # what the model is told of tools is part of the prompt
    sizes = [post("/tokenize", {"messages": talk[:1], **more})[1]["count"] for more in [{}, {"tools": TOOLS}]]
    assert sizes[1] > sizes[0] + 100, sizes


def check_streamed_calls():
    body = {"messages": [{"role": "user", "content": "Ann?"}], "seed": 4, "max_tokens": 3500, "tools": TOOLS,
            "tool_choice": "required", "stream": True, "n": 2}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode())
    called, reasons = {}, {}
    with urllib.request.urlopen(request, timeout=300) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                for call in choice["delta"].get("tool_calls", []):
                    assert call["index"] == 0 and call["type"] == "function" and call["id"], call
                    called[choice["index"]] = json.loads(call["function"]["arguments"])
                reasons[choice["index"]] = choice["finish_reason"] or reasons.get(choice["index"])
    assert set(called) == {0, 1} and set(reasons.values()) == {"tool_calls"}, (called, reasons)


def check_grammars():
    for seed in range(5):
        choice = ask(seed, grammar='root ::= [a-f]{3} ("-" [0-9]{2}){1,2}')
        assert re.fullmatch(r"[a-f]{3}(-[0-9]{2}){1,2}", choice["message"]["content"]), choice
    status, answer = post("/v1/completions", {"prompt": "x", "max_tokens": 50, "grammar": 'root ::= "yes" | "no"'})
    assert status == 200 and answer["choices"][0]["text"] in ("yes", "no"), answer


def check_refusals():
    def refused(says, **more):
        status, answer = post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], **more})
        assert status == 400 and says in answer["error"]["message"], (status, answer)

    def schema(s):
        return {"type": "json_schema", "json_schema": {"name": "f", "schema": s}}
    refused("'uniqueItems' is not supported", response_format=schema({"type": "array", "uniqueItems": True}))
    refused("no text can satisfy", response_format=schema({"enum": ["a"], "type": "null"}))
    refused("line 1", grammar="root = x")
    bad = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "minProperties": 1}}}]
    refused("tool 'f': schema at #: the keyword 'minProperties'", tools=bad, tool_choice="required")


with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(check_schema, range(N_SCHEMAS)))
print(N_SCHEMAS, "schemas: every answer validates")
check_open_forms()
check_tools()
check_streamed_calls()
check_grammars()
check_refusals()
print("tools are called, grammars kept, what is wrong is refused")
