"""Each format by example: what its models write, and what they get wrong."""

from __future__ import annotations

import json

import pytest
from models_write import EXAMPLE, TOOLS, WRITERS

from serving.tools.events import Call, Message
from serving.tools.message import keeps_special_tokens, parse_message
from serving.tools.registry import FORMATS, detect_tool_parser

PARIS = Call("get_weather", '{"city": "Paris"}')
F = Call("f", "{}")


def read(tools: str, text: str) -> Message:
    return parse_message(text, tools=tools, reasoning=None, tool_definitions=TOOLS)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_calls_come_back_as_written(write) -> None:
    message = read(WRITERS[write], write(EXAMPLE))
    assert [(call.name, json.loads(call.arguments)) for call in message.calls] == EXAMPLE
    assert message.content is None
    assert message.reasoning is None


TAGGED = "<arg_key>days</arg_key><arg_value>"
WEATHER = "<function=get_weather>\n<parameter="
SEP, CALL, DONE = "<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
TO_WEATHER = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"

CALLED = {  # parser, text, calls, content
    "members in any order": (
        "hermes",
        '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}',
        [PARIS],
        None,
    ),
    "text around": (
        "hermes",
        'One.\n\n<tool_call>{"name": "f", "arguments": {}}</tool_call>\nTwo. ',
        [F],
        "One.\n\nTwo. ",
    ),
    "a bracket too many": ("hermes", '<tool_call>\n{"name": "f", "arguments": {}}}\n</tool_call>', [F], None),
    "two in one tag": ("hermes", '<tool_call>{"name": "f"}\n{"name": "f"}</tool_call>', [F, F], None),
    "Python for JSON": (
        "hermes",
        "<tool_call>{'name': 'f', 'arguments': {'a': (True, 'x\\'\"'),}}",
        [Call("f", '{"a": [true, "x\'\\""]}')],
        None,
    ),
    "raw line breaks": (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": "b\nc\\d"}}',
        [Call("f", '{"a": "b\\nc\\\\d"}')],
        None,
    ),
    "arguments as a string": (
        "hermes",
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}',
        [Call("f", '{"a": 1}')],
        None,
    ),
    "null for none": ("hermes", '<tool_call>{"name": "f", "arguments": null}', [F], None),
    "llama, two": (
        "llama3_json",
        '{"name": "get_weather", "parameters": {"city": "Paris"}}; {"name": "get_weather", "parameters": {}}',
        [PARIS, Call("get_weather", "{}")],
        None,
    ),
    "llama, a tag": ("llama3_json", 'Sure. <|python_tag|>{"name": "f", "parameters": {}}', [F], "Sure."),
    "llama, a type": (
        "llama3_json",
        '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}',
        [PARIS],
        None,
    ),
    "mistral, no [ARGS]": (
        "mistral",
        'Hm.[TOOL_CALLS]get_weather{"city": "Paris"}[TOOL_CALLS]f[ARGS]{}',
        [PARIS, F],
        "Hm.",
    ),
    "mistral, one object": ("mistral", '[TOOL_CALLS] {"name": "f", "arguments": {}}', [F], None),
    "deepseek, both ways": (
        "deepseek_v3",
        f"x<｜tool▁calls▁begin｜>{CALL}f{SEP}{{}}{DONE}\n{CALL}function{SEP}f\n```json\n{{}}\n```{DONE}",
        [F, F],
        "x",
    ),
    "glm, nothing given": ("glm45", "<tool_call>f</tool_call><tool_call>f\n</tool_call>", [F, F], None),
    "glm, typed": (
        "glm45",
        f"<tool_call>get_weather{TAGGED}3</arg_value><arg_key>city</arg_key><arg_value>3</arg_value></tool_call>",
        [Call("get_weather", '{"days": 3, "city": "3"}')],
        None,
    ),
    "glm, a float for an integer": (
        "glm45",
        f"<tool_call>get_weather{TAGGED}3.0</arg_value></tool_call>",
        [Call("get_weather", '{"days": 3}')],
        None,
    ),
    "glm, no such type": (
        "glm45",
        f"<tool_call>get_weather{TAGGED}three</arg_value></tool_call>",
        [Call("get_weather", '{"days": "three"}')],
        None,
    ),
    "glm, unknown types": (
        "glm45",
        "<tool_call>f<arg_key>a</arg_key><arg_value>[1, 'b']</arg_value></tool_call>",
        [Call("f", '{"a": [1, "b"]}')],
        None,
    ),
    "qwen, no outer tags": ("qwen3_xml", "Hm.\n<function=f>\n</function>", [F], "Hm."),
    "qwen, a tag in a value": (
        "qwen3_xml",
        f"<tool_call>\n{WEATHER}city>\na\n</parameter>\nb</function>\n</parameter>\n</function>\n</tool_call>",
        [Call("get_weather", '{"city": "a\\n</parameter>\\nb</function>"}')],
        None,
    ),
    "qwen, lines": (
        "qwen3_xml",
        f"{WEATHER}city>\n\n a\n\n</parameter>\n</function>",
        [Call("get_weather", '{"city": "\\n a\\n"}')],
        None,
    ),
    "qwen, Python's words": (
        "qwen3_xml",
        f"{WEATHER}metric>\nTrue\n</parameter>\n</function>",
        [Call("get_weather", '{"metric": true}')],
        None,
    ),
    "python, strings of others": (
        "pythonic",
        "[get_weather(city='Paris', days=\"3\", metric='True',)] ",
        [Call("get_weather", '{"city": "Paris", "days": 3, "metric": true}')],
        None,
    ),
    "gpt-oss, all channels": (
        "openai",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>First:<|end|>"
        f'<|start|>assistant{TO_WEATHER}{{"city": "Paris"}}<|call|>',
        [PARIS],
        "First:",
    ),
    "gpt-oss, no arguments": ("openai", f"{TO_WEATHER}<|call|>", [Call("get_weather", "{}")], None),
}


@pytest.mark.parametrize(("tools", "text", "calls", "content"), CALLED.values(), ids=CALLED)
def test_calls(tools: str, text: str, calls: list[Call], content: str | None) -> None:
    message = read(tools, text)
    assert message.calls == calls
    assert message.content == content


NOT_CALLS = {
    "a tag in a sentence": ("hermes", "Write <tool_call> and then </tool_call>."),
    "no object": ("hermes", "<tool_call>\nget_weather\n</tool_call>"),
    "no name": ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
    "a list for arguments": ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    "arguments misspelt": ("hermes", '<tool_call>{"name": "f", "aguments": {"a": 1}}</tool_call>'),
    "JSON as an answer": ("llama3_json", '{"name": "Bob", "parameters": {}}'),
    "more JSON": ("llama3_json", '{"name": "get_weather", "age": 3}'),
    "an unfinished name": ("llama3_json", '{"name": "get_wea'),
    "no format of mistral's": ("mistral", "[TOOL_CALLS] is a marker"),
    "half a header": ("deepseek_v3", f"{CALL}function{SEP}f"),
    "no tags": ("glm45", "<tool_call>hello world</tool_call>"),
    "no function": ("qwen3_xml", "<tool_call>\n{}\n</tool_call> <function=f> x"),
    "a link": ("pythonic", "[get_weather](http://example.com)"),
    "mathematics": ("pythonic", "[f(x=1)] is a list"),
    "code": ("pythonic", "[get_weather(city=name)]"),
    "a list of numbers": ("json_list", "[1, 2]"),
}


@pytest.mark.parametrize(("tools", "text"), NOT_CALLS.values(), ids=NOT_CALLS)
def test_what_is_no_call_is_content_as_it_stands(tools: str, text: str) -> None:
    assert read(tools, text) == Message(content=text)


BROKEN = {  # the call has begun, and then goes wrong: parser, text, arguments, content
    "hermes": ("hermes", '<tool_call>{"name": "f", "arguments": {"a": !}}</tool_call> So.', '{"a": ', "!}} So."),
    "glm": ("glm45", f"<tool_call>get_weather{TAGGED}3</arg_value>?</tool_call>", "", f"{TAGGED}3</arg_value>?"),
    "gpt-oss": ("openai", f"{TO_WEATHER}{{'city' = 1}}<|call|>", '{"city"', "= 1}"),
    "cut short": ("mistral", '[TOOL_CALLS]f[ARGS]{"a": "b', '{"a": "b', None),
}


@pytest.mark.parametrize(("tools", "text", "arguments", "content"), BROKEN.values(), ids=BROKEN)
def test_of_a_broken_call_the_rest_is_content(tools: str, text: str, arguments: str, content: str | None) -> None:
    message = read(tools, text)
    assert [call.arguments for call in message.calls] == [arguments]
    assert message.content == content


def test_without_tools_gpt_oss_still_has_channels() -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello.<|return|>"
    message = parse_message(text, tools=None, reasoning="openai")
    assert message == Message(reasoning="Hm.", content="Hello.")
    message = parse_message(TO_WEATHER + "{}<|call|>", tools=None, reasoning="openai", tool_definitions=TOOLS)
    assert message == Message(content="{}")


def test_messages_of_one_kind_do_not_run_together() -> None:
    text = "<|channel|>analysis<|message|>A.<|end|><|start|>assistant<|channel|>analysis<|message|>B.<|end|>"
    assert read("openai", text).reasoning == "A.\n\nB."


TEMPLATES = {
    "{{ '<|start|>assistant<|channel|>final<|message|>' }}": "openai",
    "{{ '[TOOL_CALLS]' + name + '[ARGS]' }}": "mistral",
    "{{ '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + name + '```json' }}": "deepseek_v3",
    "{{ '<｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' }}": "deepseek_v31",
    "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>": "glm45",
    "<tool_call>\n<function=name>\n<parameter=one>\nvalue\n</parameter>": "qwen3_xml",
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>': "hermes",
    "Use exact format: [func_name1(param1=value1), func_name2(...)]": "pythonic",
    '<|start_header_id|>{"name": function name, "parameters": dictionary}': "llama3_json",
    "<seed:tool_call>\n<function=name>\n<parameter=one>": None,
    '<tool_calls>[{"name": "f", "arguments": {}}]</tool_calls> within <tool_call>': None,
    "{{ bos_token }}[INST] {{ message }} [/INST]": None,
}


@pytest.mark.parametrize(("template", "name"), TEMPLATES.items())
def test_a_template_tells_the_format(template: str, name: str | None) -> None:
    assert detect_tool_parser(template) == name


def test_formats_of_special_tokens_say_so() -> None:
    assert keeps_special_tokens(tools="mistral", reasoning=None)
    assert keeps_special_tokens(tools=None, reasoning="openai")
    assert not keeps_special_tokens(tools=None, reasoning="qwen3")
    assert not keeps_special_tokens(tools=None, reasoning=None)
    assert {f.name for f in FORMATS.values() if not f.keeps_special_tokens} == {"pythonic", "json_list"}
