"""What a request for a response may say, and the chat request that asks for the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Struct

from jaxengine.request import InvalidRequest
from serving.bodies import NotServed
from serving.generation import Job
from serving.openai.chat_request import ChatRequest, chat_job, render, thinking_switch
from serving.openai.prompts import encode
from serving.openai.responses.conversation import chat_messages, continues, drop_what_does_not_fit
from serving.openai.responses.items import FunctionTool, Known
from serving.openai.sampling import NOT_SERVED, Flag, GenerationFields, Integer, check, doc
from serving.openai.schemas import FUNCTION_CHOICE, INPUT_ITEM
from serving.reading import Reading, Tools
from serving.server import Server

LOGPROBS = "message.output_text.logprobs"
NAMES = {  # of chat requests' fields here
    "messages": "input",
    "continue_final_message": "input",
    "prompt_token_ids": "input",
    "max_tokens": "max_output_tokens",
    "logprobs": "top_logprobs",
    "response_format": "text.format",
}
CALLED_OTHERWISE = {
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "logprobs": f'include=["{LOGPROBS}"]',
    "enable_response_messages": "GET /v1/responses/{id}/input_items",
    "previous_input_messages": "previous_response_id, or send all items as input",
}


class TextFormat(Struct, tag_field="type", tag="text", frozen=True, forbid_unknown_fields=True):
    """Any text."""


class JsonObjectFormat(Struct, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    """Any JSON object."""


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema", kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, doc("Of the format.", minLength=1)]
    schema: dict[str, Any]
    description: str | None = None
    strict: Flag = None


class TextConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    format: TextFormat | JsonObjectFormat | JsonSchemaFormat = TextFormat()
    verbosity: Annotated[Literal["medium"] | None, doc("Others: ask for it in the instructions.")] = "medium"


class ReasoningConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    effort: Annotated[
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None, doc("For the chat template.")
    ] = None
    summary: Annotated[Literal["auto"] | None, doc("There is none: the thoughts themselves are told.")] = None
    generate_summary: Annotated[Literal["auto"] | None, doc("The older name of summary.")] = None
    context: Annotated[Literal["auto"] | None, doc("Which thoughts are told again is the chat template's.")] = None
    mode: Literal["standard"] | None = None


class ResponseStreamOptions(Struct, kw_only=True, forbid_unknown_fields=True):
    include_obfuscation: Annotated[Literal[False] | None, doc("Events are not padded.")] = None


class ResponsesRequest(GenerationFields, kw_only=True):
    """A response to items, or to what follows an earlier response."""

    input: Annotated[str | list[dict[str, Any]] | None, doc("A text, or items.", allOf=[{"items": INPUT_ITEM}])] = None
    instructions: Annotated[str | None, doc("What comes before the conversation.")] = None
    previous_response_id: Annotated[str | None, doc("The conversation goes on after that one.")] = None
    tools: Annotated[list[FunctionTool] | None, doc("Functions that the model may call.")] = None
    tool_choice: Annotated[
        str | dict[str, Any] | None, doc("none, auto, required, a function, or allowed_tools.", allOf=[FUNCTION_CHOICE])
    ] = None
    parallel_tool_calls: Annotated[Flag, doc("false: at most one call.")] = None
    max_tool_calls: Annotated[Integer, doc("Of OpenAI's own tools, of which there are none.", minimum=1)] = None
    text: Annotated[TextConfig | None, doc("The form of the answer's text.")] = None
    reasoning: ReasoningConfig | None = None
    max_output_tokens: Annotated[Integer, doc("Most tokens to generate; by default what fits.", minimum=1)] = None
    top_logprobs: Annotated[Integer, doc("Most likely tokens to list at each place.", minimum=0)] = None
    include: Annotated[
        list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None,
        doc("Thoughts are not encrypted: a reasoning item's content can be sent back as it is."),
    ] = None
    truncation: Annotated[
        Literal["auto", "disabled"] | None, doc("auto: the oldest turns are dropped where not all fit.")
    ] = None
    store: Annotated[Flag, doc("Keep the response for later requests; by default where the server can.")] = None
    background: Annotated[Flag, doc("Answer at once, and go on; GET tells how far it is.")] = None
    stream_options: ResponseStreamOptions | None = None
    metadata: Annotated[dict[str, str] | None, doc("For the client's own use.")] = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, doc("Variables of the chat template.")] = None

    not_served: ClassVar = {
        **NOT_SERVED,
        **{name: NotServed(f"use {other}") for name, other in CALLED_OTHERWISE.items()},
        "n": NotServed("send as many requests", (1,)),
        "access_programs": NotServed(),
        "background_options": NotServed(neutral=({}, {"completion_window": "soonest"})),
        "context_management": NotServed("use truncation", ([],)),
        "conversation": NotServed("use previous_response_id"),
        "image": NotServed("only text is served"),
        "moderation": NotServed(),
        "prompt": NotServed("send its text as instructions and input"),
        "prompt_cache_options": NotServed("equal beginnings are found anyway", ({}, {"mode": "implicit"})),
        "prompt_cache_retention": NotServed("what was used last is kept", ("in_memory",)),
    }


SHARED = GenerationFields.__struct_fields__


async def response_job(
    server: Server, request_id: str, body: ResponsesRequest, items: Sequence[Known]
) -> tuple[Job, Reading]:
    """The engine's work after all these items, and how its text is to be read. Raises InvalidRequest and Refusal."""
    with own_names(body):
        return await chat_job(server, request_id, await fitting_request(server, body, items))


async def input_tokens(server: Server, body: ResponsesRequest, items: Sequence[Known]) -> list[int]:
    """Of the prompt that all these items make. Raises InvalidRequest and Refusal."""
    with own_names(body):
        chat = await fitting_request(server, body, items)
        check(server, chat)
        return await encode(server, render(server, chat, tools_of(server, chat)), special=False)


async def fitting_request(server: Server, body: ResponsesRequest, items: Sequence[Known]) -> ChatRequest:
    """Without what is to be dropped."""
    chat = chat_request(server, body, items)
    if body.truncation == "auto":
        await drop_what_does_not_fit(server, chat, tools_of(server, chat))
    return chat


def tools_of(server: Server, chat: ChatRequest) -> Tools:
    return Tools.of(server.formats, chat.tools or (), chat.tool_choice)


def chat_request(server: Server, body: ResponsesRequest, items: Sequence[Known]) -> ChatRequest:
    """A chat request for the same answer. Raises InvalidRequest."""
    wants_logprobs = LOGPROBS in (body.include or ())
    if body.top_logprobs and not wants_logprobs:
        raise InvalidRequest("top_logprobs", "logprobs were not asked for", f'set include=["{LOGPROBS}"]')
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options", "there is no stream", "set stream=true or leave it out")
    request = ChatRequest(
        **{name: getattr(body, name) for name in SHARED},
        messages=chat_messages(body.instructions, items),
        continue_final_message=continues(items),
        max_completion_tokens=body.max_output_tokens,
        logprobs=wants_logprobs,
        top_logprobs=body.top_logprobs,
        tools=None if body.tools is None else [_function(tool) for tool in body.tools],
        tool_choice=body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        reasoning_effort=None if body.reasoning is None else body.reasoning.effort,
        response_format=_response_format(body.text or TextConfig()),
        chat_template_kwargs={**_thinking(server, body), **(body.chat_template_kwargs or {})},
    )
    request.stream = body.stream or body.background  # whoever looks at a background response sees how far it is
    return request


@contextmanager
def own_names(body: ResponsesRequest) -> Iterator[None]:
    """What is wrong with the chat request is told of the request for a response."""
    try:
        yield
    except InvalidRequest as error:
        name = NAMES.get(error.field)
        if error.field == "structured_outputs.json" and body.structured_outputs is None:
            name = "text.format"
        if name is None:
            raise
        raise InvalidRequest(name, error.problem, error.remedy) from error


def _function(tool: FunctionTool) -> dict[str, Any]:
    told = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    return {"type": "function", "function": {name: value for name, value in told.items() if value is not None}}


def _response_format(text: TextConfig) -> dict[str, Any] | None:
    match text.format:
        case JsonSchemaFormat(name=name, schema=schema):
            return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
        case JsonObjectFormat():
            return {"type": "json_object"}
    return None


def _thinking(server: Server, body: ResponsesRequest) -> dict[str, Any]:
    """The chat template's variable that says whether to think. Raises InvalidRequest where it cannot be turned off."""
    effort = None if body.reasoning is None else body.reasoning.effort
    if effort is None:
        return {}
    if (switch := thinking_switch(server, bool(body.tools))) is not None:
        return {switch: effort != "none"}
    template = server.tokenizer.templates.choose(server.chat_template, bool(body.tools))
    if effort == "none" and server.formats.reasoning is not None and "reasoning_effort" not in template:
        raise InvalidRequest(
            "reasoning.effort", "this model's chat template cannot turn it off", "use another, or none"
        )
    return {}
