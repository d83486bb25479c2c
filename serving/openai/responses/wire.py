"""The JSON of responses: the response itself, the events that it is streamed by, and what is told about kept ones."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from serving.openai.responses.items import FunctionTool, Known, Made, OutputText, ReasoningText
from serving.openai.responses.request import ReasoningConfig, TextConfig
from serving.openai.wire import TokenLogprob

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ErrorCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]


class InputTokensDetails(Struct):
    cached_tokens: int


class OutputTokensDetails(Struct):
    reasoning_tokens: int


class ResponseUsage(Struct, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails | UnsetType = UNSET
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(Struct):
    code: ErrorCode
    message: str
    param: str | None = None


class IncompleteDetails(Struct):
    reason: Literal["max_output_tokens"]


class Response(Struct, kw_only=True):
    """An answer, as far as it is."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status = "in_progress"
    background: bool
    store: bool
    model: str
    output: list[Made] = []
    usage: ResponseUsage | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    previous_response_id: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    prompt_cache_key: str | None
    reasoning: ReasoningConfig
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    temperature: float
    text: TextConfig
    tool_choice: str | dict[str, Any]
    tools: list[FunctionTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    user: str | None


class InputTokens(Struct):
    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


class ItemList(Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Known]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(Struct):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


# Events: the tag is also the event's name


class Event(Struct, tag_field="type", kw_only=True):
    sequence_number: int = 0


class OfResponse(Event):
    response: Response


class Created(OfResponse, tag="response.created"):
    pass


class Queued(OfResponse, tag="response.queued"):
    pass


class InProgress(OfResponse, tag="response.in_progress"):
    pass


class Completed(OfResponse, tag="response.completed"):
    pass


class Incomplete(OfResponse, tag="response.incomplete"):
    """The last event of cancelled responses, too: the protocol has none for them."""


class Failed(OfResponse, tag="response.failed"):
    pass


class OfItem(Event):
    output_index: int
    item: Made


class ItemAdded(OfItem, tag="response.output_item.added"):
    pass


class ItemDone(OfItem, tag="response.output_item.done"):
    pass


class Inside(Event):
    """Something about an item that is open."""

    item_id: str
    output_index: int


class ArgumentsDelta(Inside, tag="response.function_call_arguments.delta"):
    delta: str


class ArgumentsDone(Inside, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


class InsidePart(Inside, kw_only=True):
    content_index: int = 0  # every item that is made here has one part


class PartAdded(InsidePart, tag="response.content_part.added"):
    part: OutputText | ReasoningText


class PartDone(InsidePart, tag="response.content_part.done"):
    part: OutputText | ReasoningText


class TextDelta(InsidePart, tag="response.output_text.delta"):
    delta: str
    logprobs: list[TokenLogprob]


class TextDone(InsidePart, tag="response.output_text.done"):
    text: str
    logprobs: list[TokenLogprob]


class ReasoningDelta(InsidePart, tag="response.reasoning_text.delta"):
    delta: str


class ReasoningDone(InsidePart, tag="response.reasoning_text.done"):
    text: str
