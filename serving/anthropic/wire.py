"""The JSON of Anthropic's answers: a message, the events that it is streamed by, and failures."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from serving.anthropic.blocks import Made

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn"]


class MessageUsage(Struct, kw_only=True):
    """The prompt has as many tokens as the two kinds of input tokens together."""

    input_tokens: int
    cache_read_input_tokens: int | UnsetType = UNSET
    output_tokens: int


class AnswerMessage(Struct, tag="message", kw_only=True):
    """An answer. While it is streamed, `content` and both reasons come in later events."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Made]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


class TokenCount(Struct):
    input_tokens: int


# Deltas


class TextDelta(Struct, tag="text_delta"):
    text: str


class ThinkingDelta(Struct, tag="thinking_delta"):
    thinking: str


class SignatureDelta(Struct, tag="signature_delta"):
    signature: str


class InputJsonDelta(Struct, tag="input_json_delta"):
    partial_json: str


Delta = TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class EndDelta(Struct, kw_only=True):
    stop_reason: StopReason
    stop_sequence: str | None = None


# Events: the tag is also the event's name


class MessageStart(Struct, tag="message_start"):
    message: AnswerMessage


class Ping(Struct, tag="ping"):
    pass


class BlockStart(Struct, tag="content_block_start"):
    index: int
    content_block: Made


class BlockDelta(Struct, tag="content_block_delta"):
    index: int
    delta: Delta


class BlockStop(Struct, tag="content_block_stop"):
    index: int


class MessageDelta(Struct, tag="message_delta"):
    delta: EndDelta
    usage: MessageUsage


class MessageStop(Struct, tag="message_stop"):
    pass


class MessageErrorDetail(Struct):
    type: str
    message: str


class MessageError(Struct, tag="error"):
    error: MessageErrorDetail
    request_id: str | None = None


Event = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | MessageError
