"""Answers as models write them, format by format, for the tests beside this file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Arguments = dict[str, Any]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "metric": {"type": "boolean"},
                    "where": {"type": "object", "properties": {"lat": {"type": "number"}}},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "srv.now/utc-time:v2"}},
]
EXAMPLE = [
    ("get_weather", {"city": 'Paris <é> "x"\n</b>', "days": -3, "tags": ["a", "]"]}),
    ("srv.now/utc-time:v2", {}),
]


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def hermes(calls: list[tuple[str, Arguments]]) -> str:
    return "\n".join(
        f'<tool_call>\n{{"name": {dumps(name)}, "arguments": {dumps(arguments)}}}\n</tool_call>'
        for name, arguments in calls
    )


def llama3_json(calls: list[tuple[str, Arguments]]) -> str:
    return "; ".join(f'{{"name": {dumps(name)}, "parameters": {dumps(arguments)}}}' for name, arguments in calls)


def json_list(calls: list[tuple[str, Arguments]]) -> str:
    return dumps([{"name": name, "arguments": arguments} for name, arguments in calls])


def mistral(calls: list[tuple[str, Arguments]]) -> str:
    return "[TOOL_CALLS] " + dumps([{"name": n, "arguments": a, "id": "a1b2c3d4e"} for n, a in calls])


def mistral_v11(calls: list[tuple[str, Arguments]]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[CALL_ID]a1b2c3d4e[ARGS]{dumps(arguments)}" for name, arguments in calls)


def mistral_v13(calls: list[tuple[str, Arguments]]) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{dumps(arguments)}" for name, arguments in calls)


def deepseek_v3(calls: list[tuple[str, Arguments]]) -> str:
    written = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dumps(arguments)}\n```<｜tool▁call▁end｜>"
        for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{written}<｜tool▁calls▁end｜>"


def deepseek_v31(calls: list[tuple[str, Arguments]]) -> str:
    written = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumps(arguments)}<｜tool▁call▁end｜>" for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{written}<｜tool▁calls▁end｜>"


def bare(value: object) -> str:
    return value if isinstance(value, str) else dumps(value)


def glm45(calls: list[tuple[str, Arguments]]) -> str:
    return "\n".join(
        f"<tool_call>{name}\n"
        + "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{bare(v)}</arg_value>\n" for k, v in arguments.items())
        + "</tool_call>"
        for name, arguments in calls
    )


def glm47(calls: list[tuple[str, Arguments]]) -> str:
    return "".join(
        f"<tool_call>{name}"
        + "".join(f"<arg_key>{k}</arg_key><arg_value>{bare(v)}</arg_value>" for k, v in arguments.items())
        + "</tool_call>"
        for name, arguments in calls
    )


def qwen3_xml(calls: list[tuple[str, Arguments]]) -> str:
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={k}>\n{bare(v)}\n</parameter>\n" for k, v in arguments.items())
        + "</function>\n</tool_call>"
        for name, arguments in calls
    )


def pythonic(calls: list[tuple[str, Arguments]]) -> str:
    def python(value: object) -> str:
        return repr(value) if isinstance(value, bool) else dumps(value)

    written = (f"{name}({', '.join(f'{k}={python(v)}' for k, v in arguments.items())})" for name, arguments in calls)
    return f"[{', '.join(written)}]"


def pythonic_repr(calls: list[tuple[str, Arguments]]) -> str:
    written = (f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})" for name, arguments in calls)
    return f"<|python_start|>[{', '.join(written)}]<|python_end|>"


def openai(calls: list[tuple[str, Arguments]]) -> str:
    return "<|start|>assistant".join(
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{dumps(arguments)}<|call|>"
        for name, arguments in calls
    )


def openai_to_first(calls: list[tuple[str, Arguments]]) -> str:
    return "<|start|>assistant".join(
        f" to=functions.{name}<|channel|>commentary json<|message|>{dumps(arguments)}<|call|>"
        for name, arguments in calls
    )


Writer = Callable[[list[tuple[str, Arguments]]], str]
# how it is written → the parser that reads it
WRITERS: dict[Writer, str] = {
    hermes: "hermes",
    llama3_json: "llama3_json",
    json_list: "json_list",
    mistral: "mistral",
    mistral_v11: "mistral",
    mistral_v13: "mistral",
    deepseek_v3: "deepseek_v3",
    deepseek_v31: "deepseek_v31",
    glm45: "glm45",
    glm47: "glm45",
    qwen3_xml: "qwen3_xml",
    pythonic: "pythonic",
    pythonic_repr: "pythonic",
    openai: "openai",
    openai_to_first: "openai",
}
MARKERS = [
    *("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ),
    *("```json", "```", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "city", "get_weather", "f"),
    *("<function=", "<parameter=", "</parameter>", "</function>", ">", "<|python_start|>", "<|python_end|>"),
    *("<|start|>", "assistant", "<|channel|>", "analysis", "commentary", "final", " to=functions.f", "<|constrain|>"),
    *("json", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<think>", "</think>", "[THINK]", "[/THINK]"),
    *("\n", " ", "{", "}", "[", "]", "(", ")", '"', "'", ":", ",", "=", ";", "\\", "{}", "1", "true", "None", "-"),
    *('{"name": "f", "arguments": {', '{"name": "f", "parameters": {"a": ', '"name"', '"arguments"', '"city": "'),
    *("get_weather(", "[f(", "f(a=", "city='", "text", "é", "\u2028", "\x00", "\ud800"),
]
