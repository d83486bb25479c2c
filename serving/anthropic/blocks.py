"""What messages consist of, in requests and in answers: blocks of text, thoughts, calls and their results.

Kinds of blocks that are not here (images, documents, results of Anthropic's own tools) are refused by their name.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

CacheControl = dict[str, Any] | None  # asks for nothing: equal beginnings are found anyway
UNSIGNED = "unsigned"  # thoughts are not signed here; clients want some signature and send it back


class Block(Struct, tag_field="type", kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Fields that are None are left out of answers."""


class TextBlock(Block, tag="text"):
    text: str
    citations: list[Any] | None = None
    cache_control: CacheControl = None


class ThinkingBlock(Block, tag="thinking"):
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Block, tag="redacted_thinking"):
    """Thoughts that only Anthropic can read."""

    data: str


class ToolUseBlock(Block, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]
    caller: dict[str, Any] | None = None
    cache_control: CacheControl = None


class ToolResultBlock(Block, tag="tool_result"):
    tool_use_id: str
    content: str | list[TextBlock] = ""
    is_error: bool | None = None
    cache_control: CacheControl = None


Given = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock
Made = TextBlock | ThinkingBlock | ToolUseBlock


def joined(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join([block.text for block in content])
