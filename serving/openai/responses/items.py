"""What responses consist of, in requests and in answers: items, the parts of messages, and tools.

`read_items` makes them of a request's input. Kinds that are not here (images, files, calls of tools that OpenAI runs)
are refused by their name.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from jaxengine import InvalidRequest
from serving.openai.sampling import Flag, doc

Status = Literal["in_progress", "completed", "incomplete"]
PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}  # of ids
REMEDY = "send messages of text, function_call, function_call_output and reasoning items"


class Part(Struct, tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """A piece of an item."""


class InputText(Part, tag="input_text"):
    text: str
    prompt_cache_breakpoint: Any = UNSET  # asks for nothing: equal beginnings are found anyway


class OutputText(Part, tag="output_text"):
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []
    parsed: Any = UNSET  # the Python client's own, which it sends back


class RefusalText(Part, tag="refusal"):
    refusal: str


class ReasoningText(Part, tag="reasoning_text"):
    text: str


class SummaryText(Part, tag="summary_text"):
    text: str


class Item(Struct, tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """Of a conversation. Items of a request may come without their id."""

    id: str = ""
    status: Status = "completed"


class MessageItem(Item, tag="message"):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | OutputText | RefusalText]


class FunctionCallItem(Item, tag="function_call"):
    call_id: str
    name: str
    arguments: str


class FunctionCallOutputItem(Item, tag="function_call_output"):
    call_id: str
    output: str | list[InputText]
    name: str | UnsetType = UNSET


class ReasoningItem(Item, tag="reasoning"):
    """Nothing is summarised or encrypted here: `content` has the thoughts themselves."""

    summary: list[SummaryText] = []
    content: list[ReasoningText] = []
    encrypted_content: None = None


class ItemReference(Struct, tag_field="type", tag="item_reference", forbid_unknown_fields=True):
    """An item of a response that the server keeps."""

    id: str


Known = MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem
Made = MessageItem | FunctionCallItem | ReasoningItem


class FunctionTool(Struct, kw_only=True, forbid_unknown_fields=True):
    """A function of the client's own."""

    type: Literal["function"]
    name: Annotated[str, doc("Of the function.", minLength=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Flag = None


def new_id(kind: str) -> str:
    return f"{PREFIXES[kind]}_{secrets.token_hex(12)}"


def read_items(given: str | list[dict[str, Any]], find: Callable[[str], Known | None]) -> list[Known]:
    """A request's input. `find`: an item by its id, for references. Raises InvalidRequest."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_read(item, f"input[{place}]", find) for place, item in enumerate(given)]


def _read(given: dict[str, Any], place: str, find: Callable[[str], Known | None]) -> Known:
    kind = "message" if "role" in given else "item_reference"
    try:
        item = msgspec.convert({"type": kind, **_without_nulls(given)}, Known | ItemReference)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        raise InvalidRequest(place + where.rstrip("`"), problem, REMEDY) from error
    if isinstance(item, ItemReference):
        known = find(item.id)
        if known is None:
            problem = f"no response that is kept here has an item {item.id[:100]!r}"
            raise InvalidRequest(f"{place}.id", problem, "send the item itself")
        return known
    if isinstance(item, MessageItem) and isinstance(item.content, str):
        text = item.content
        item.content = [OutputText(text=text) if item.role == "assistant" else InputText(text=text)]
    item.id = item.id or new_id(str(item.__struct_config__.tag))
    return item


def _without_nulls(value: Any) -> Any:
    """Clients send back what they got with fields that only others fill."""
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
