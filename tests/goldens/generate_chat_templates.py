"""Conversations as transformers renders them with the templates that model families publish.

    venv/bin/python tests/goldens/generate_chat_templates.py TEMPLATES

writes ../data/goldens/chat_templates.json: for each family its Jinja program, its marks, and
conversations with the text that transformers.PreTrainedTokenizerFast.apply_chat_template makes
(add_generation_prompt=True). The programs written out below were put down from memory of the
models named, without branches that no conversation here takes. Those named in PUBLISHED are read
from TEMPLATES, a folder of programs as their makers publish them: models/templates of llama.cpp,
which the source package of llama-cpp-python (PyPI) carries as vendor/llama.cpp/models/templates.
"""
import datetime
import json
import os
import sys

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% endif %}")


def chatml_with_system(system):
    return ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
            "{{ '<|im_start|>system\\n" + system + "<|im_end|>\\n' }}{% endif %}"
            "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


QWEN25 = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

QWEN3 = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}")

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}")

LLAMA31 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


def mistral_old(space):
    return ("{{ bos_token }}{% for message in messages %}"
            "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception("
            "'Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
            "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
            "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token" + space +
            "}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
            "{% endif %}{% endfor %}")


MISTRAL3 = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" + "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
"""

DEEPSEEK2 = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'User: ' + message['content'] + '\\n\\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}"
    "{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "{{ 'Assistant:' }}{% endif %}")


def deepseek3(start):
    return (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
        "{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, "
        "system_prompt='', is_first_sp=true) %}{%- for message in messages %}"
        "{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}"
        "{% set ns.system_prompt = ns.system_prompt + message['content'] %}"
        "{% set ns.is_first_sp = false %}{%- else %}"
        "{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}"
        "{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}"
        "{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}"
        "{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' %}"
        "{% set content = message['content'] %}{% if '</think>' in content %}"
        "{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"
        "{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜>" + start + "'}}{% endif %}")


ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + "
    "message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + "
    "message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}")

DS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
L3 = ("<|begin_of_text|>", "<|eot_id|>")
SMOL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
# family, template of, program, bos, eos, takes a system message
FAMILIES = [
    ("ChatML", "teknium/OpenHermes-2.5-Mistral-7B", CHATML, "<s>", "<|im_end|>", True),
    ("Qwen 1.5", "Qwen/Qwen1.5-0.5B-Chat", chatml_with_system("You are a helpful assistant"), None,
     "<|im_end|>", True),
    ("Qwen 2", "Qwen/Qwen2-0.5B-Instruct", chatml_with_system("You are a helpful assistant."), None,
     "<|im_end|>", True),
    ("Qwen 2.5", "Qwen/Qwen2.5-0.5B-Instruct", QWEN25, None, "<|im_end|>", True),
    ("Qwen 3", "Qwen/Qwen3-0.6B", QWEN3, None, "<|im_end|>", True),
    ("SmolLM2", "HuggingFaceTB/SmolLM2-135M-Instruct", chatml_with_system(SMOL), "<|im_start|>",
     "<|im_end|>", True),
    ("Llama 2", "meta-llama/Llama-2-7b-chat-hf", LLAMA2, "<s>", "</s>", True),
    ("Llama 3", "meta-llama/Meta-Llama-3-8B-Instruct", LLAMA3, *L3, True),
    ("Llama 3.1", "meta-llama/Llama-3.1-8B-Instruct", LLAMA31, *L3, True),
    ("Mistral v0.1", "mistralai/Mistral-7B-Instruct-v0.1", mistral_old(" + ' ' "), "<s>", "</s>",
     False),
    ("Mistral v0.2", "mistralai/Mistral-7B-Instruct-v0.2", mistral_old(""), "<s>", "</s>", False),
    ("Mistral v3", "mistralai/Mistral-7B-Instruct-v0.3", MISTRAL3, "<s>", "</s>", True),
    ("DeepSeek V2", "deepseek-ai/DeepSeek-V2-Lite-Chat", DEEPSEEK2, *DS, True),
    ("DeepSeek V3", "deepseek-ai/DeepSeek-V3", deepseek3(""), *DS, True),
    ("DeepSeek R1", "deepseek-ai/DeepSeek-R1", deepseek3("<think>\\n"), *DS, True),
    ("Zephyr", "HuggingFaceH4/zephyr-7b-beta", ZEPHYR, "<s>", "</s>", True),
]


# family, file, bos, eos, and which conversations with tools its program can write
PUBLISHED = [
    ("Qwen 2.5", "Qwen-Qwen2.5-7B-Instruct", None, "<|im_end|>", "all"),
    ("Qwen 3", "Qwen-Qwen3-0.6B", None, "<|im_end|>", "all"),
    ("Llama 3.1", "meta-llama-Llama-3.1-8B-Instruct", *L3, "one call"),
    ("Llama 3.2", "meta-llama-Llama-3.2-3B-Instruct", *L3, "one call"),
    ("Llama 3.1", "meta-llama-Llama-3.3-70B-Instruct", *L3, "one call"),
    ("Mistral Nemo", "mistralai-Mistral-Nemo-Instruct-2407", "<s>", "</s>", "all"),
    # its program has no place for tools, wants arguments as text, and ends two calls, but not one
    ("DeepSeek R1", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", *DS, "two calls, no tools"),
]


def turn(role, content):
    return {"role": role, "content": content}


def call(number, name, arguments):
    return {"type": "function", "id": f"abcdefgh{number}",
            "function": {"name": name, "arguments": arguments}}


def calls(content, *list_of_calls):
    return {"role": "assistant", "content": content, "tool_calls": list(list_of_calls)}


def result(number, content):
    return {"role": "tool", "tool_call_id": f"abcdefgh{number}", "content": content}


TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "The weather of a place, é <b> & 'so'.",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Its name\nand land"},
            "days": {"type": "integer", "minimum": 1, "default": 2.5}},
            "required": ["city"], "additionalProperties": False, "examples": []}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
PARIS = call(1, "get_weather", {"city": "Paris \"é\"", "days": 3, "scale": [1e-7, 1e16, 0.1, True, None, {}]})
NOW = call(2, "now", {})
ASK = turn("user", "How is it in Paris?")
WITH_TOOLS = [  # how many calls in a message at most
    (0, [ASK]),
    (0, [turn("system", " Be brief. "), ASK]),
    (1, [ASK, calls("", PARIS), result(1, "{\"sky\": \"grey\"}")]),
    (1, [turn("system", "Be brief."), ASK, calls("I look.", PARIS), result(1, "grey"),
         turn("assistant", "It is grey."), turn("user", "And later?")]),
    (1, [ASK, calls("<think>\nHm.\n</think>\n\n", PARIS), result(1, "grey")]),
    (2, [ASK, calls("", PARIS, NOW), result(1, "grey"), result(2, "noon")]),
]


HELLO = [turn("user", "Hello"), turn("assistant", "Hi there"), turn("user", "谁？ 🙂\nAnd why?")]
CONVERSATIONS = [
    [turn("user", "Hello")],
    HELLO,
    [turn("user", "Hello"), turn("assistant", "   I am one   "), turn("user", "  Again  ")],
    [turn("user", "2+2"), turn("assistant", "<think>\nsum\n</think>\n\n4"), turn("user", "3+3")],
    [turn("system", "Be brief."), turn("user", "Hello")],
    [turn("system", "Be brief.")] + HELLO,
]


def render(tokenizer, messages, tools):
    return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False,
                                         add_generation_prompt=True)


def cases_with_tools(tokenizer, kind):
    if kind == "two calls, no tools":
        texts = [call(n + 1, c["function"]["name"], json.dumps(c["function"]["arguments"], ensure_ascii=False))
                 for n, c in enumerate([PARIS, NOW])]
        messages = [ASK, calls(None, *texts), result(1, "grey"), result(2, "noon")]
        # apply_chat_template takes a content of None away, which this program looks for
        program = _compile_jinja_template(tokenizer.chat_template)
        text = program.render(messages=messages, add_generation_prompt=True, bos_token=tokenizer.bos_token)
        yield {"messages": messages, "text": text}
        return
    for most, messages in WITH_TOOLS:
        if most <= (1 if kind == "one call" else 2):
            yield {"messages": messages, "tools": TOOLS, "text": render(tokenizer, messages, TOOLS)}


def main():
    rows = []
    programs = [(family, model, jinja, bos, eos, takes_system, None)
                for family, model, jinja, bos, eos, takes_system in FAMILIES]
    for family, name, bos, eos, kind in PUBLISHED:
        with open(os.path.join(sys.argv[1], name + ".jinja"), encoding="utf-8") as file:
            programs.append((family, name, file.read(), bos, eos, True, kind))
    for family, model, jinja, bos, eos, takes_system, kind in programs:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=bos,
                                            eos_token=eos, chat_template=jinja)
        cases = []
        for messages in CONVERSATIONS:
            if messages[0]["role"] == "system" and not takes_system:
                continue
            cases.append({"messages": messages, "text": render(tokenizer, messages, None)})
        if kind:
            cases.extend(cases_with_tools(tokenizer, kind))
        rows.append({"family": family, "model": model, "chat_template": jinja, "bos_token": bos,
                     "eos_token": eos, "cases": cases})
    today = datetime.date.today().strftime("%d %b %Y")
    path = os.path.join(os.path.dirname(__file__), "../data/goldens/chat_templates.json")
    with open(path, "w", encoding="utf-8") as file:
        # Llama 3.2 writes the day: it is {today} in the file
        file.write(json.dumps(rows, ensure_ascii=False, indent=1).replace(today, "{today}"))
        file.write("\n")


main()
