"""The formats by name, and which of them a model's chat template speaks."""

from __future__ import annotations

from serving.tools import deepseek_v3, glm45, hermes, json_list, llama3_json, mistral, openai, pythonic, qwen3_xml

# the more telling first: what a later one looks for may stand in an earlier one's templates
FORMATS = {
    tool_format.name: tool_format
    for tool_format in (
        openai.FORMAT,
        mistral.FORMAT,
        deepseek_v3.FORMAT,
        deepseek_v3.FORMAT_V31,
        glm45.FORMAT,
        qwen3_xml.FORMAT,
        hermes.FORMAT,
        pythonic.FORMAT,
        llama3_json.FORMAT,
        json_list.FORMAT,
    )
}
FORMATS |= {  # as vLLM calls formats that are read alike
    "qwen3_coder": qwen3_xml.FORMAT,
    "glm47": glm45.FORMAT,
    "llama4_json": llama3_json.FORMAT,
    "llama4_pythonic": pythonic.FORMAT,
}


def detect_tool_parser(chat_template: str) -> str | None:
    """The name of the format that the template teaches its model; None when it is none that is known here."""
    for name, tool_format in FORMATS.items():
        if tool_format.recognises(chat_template):
            return name
    return None
