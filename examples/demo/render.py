"""Conversations as text: the chat template, and the same rendering in Python with marks on what is learned.

The template writes what Qwen's writes (tools as JSON between <tools></tools>, calls and results in Hermes tags), so
that parsers made for Qwen work. A test holds the two renderings together.
"""

import json
from collections.abc import Iterator
from typing import Any

from demo.kinds import Message

END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN, END_OF_TURN, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

_TOOLS_BEFORE = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
_TOOLS_AFTER = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""

CHAT_TEMPLATE = """\
{%- macro text(message) -%}{{ message.content if message.content is string else '' }}{%- endmacro -%}
{%- set opening = messages[0] if messages and messages[0].role == 'system' else none -%}
{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if opening -%}{{- text(opening) + '\\n\\n' -}}{%- endif -%}
{{- BEFORE -}}
{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- AFTER + '<|im_end|>\\n' -}}
{%- elif opening -%}
{{- '<|im_start|>system\\n' + text(opening) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{%- if loop.first or loop.previtem.role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + text(message) + '\\n</tool_response>' -}}
{%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- elif not (loop.first and opening) -%}
{{- '<|im_start|>' + message.role + '\\n' + text(message) -}}
{%- for call in message.tool_calls or [] -%}
{%- if not loop.first or text(message) -%}{{- '\\n' -}}{%- endif -%}
{%- set call = call.function or call -%}
{{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' -}}
{{- call.arguments if call.arguments is string else call.arguments | tojson -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
""".replace("BEFORE", repr(_TOOLS_BEFORE)).replace("AFTER", repr(_TOOLS_AFTER))


def _json(value: Any, sort_keys: bool) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=sort_keys)


def _spoken(message: Message) -> str:
    """What an assistant's turn says: its text, then its calls."""
    parts = [message["content"]] if message["content"] else []
    for call in message.get("tool_calls", ()):
        function = call["function"]
        arguments = _json(function["arguments"], False)
        parts.append(f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n</tool_call>')
    return "\n".join(parts)


def segments(
    messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...] = (), sort_keys: bool = False
) -> Iterator[tuple[str, bool]]:
    """(text, whether the model is to learn to write it), in order; their concatenation is the template's output.

    A segment starts where generation would start, so that encoding each by itself gives the tokens of the whole.
    """
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    context = ""
    if tools:
        listed = "".join("\n" + _json(tool, sort_keys) for tool in tools)
        opening = f"{system}\n\n" if system is not None else ""
        context = f"{TURN}system\n{opening}{_TOOLS_BEFORE}{listed}{_TOOLS_AFTER}{END_OF_TURN}\n"
    elif system is not None:
        context = f"{TURN}system\n{system}{END_OF_TURN}\n"
    for i, message in enumerate(messages):
        role = message["role"]
        if role == "assistant":
            yield context + f"{TURN}assistant\n", False
            yield _spoken(message) + END_OF_TURN, True
            context = "\n"
        elif role == "user":
            context += f"{TURN}user\n{message['content']}{END_OF_TURN}\n"
        elif role == "tool":
            opens = messages[i - 1]["role"] != "tool"
            closes = i + 1 == len(messages) or messages[i + 1]["role"] != "tool"
            context += f"{TURN}user" if opens else ""
            context += f"\n<tool_response>\n{message['content']}\n</tool_response>"
            context += f"{END_OF_TURN}\n" if closes else ""
    yield context, False


def rendered(messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...] = ()) -> str:
    return "".join(text for text, _ in segments(messages, tools))
