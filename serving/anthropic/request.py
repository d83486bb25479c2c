"""What Anthropic's requests may say, and the chat request that asks for the same."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Struct

from jaxengine.request import InvalidRequest
from serving.anthropic.blocks import CacheControl, TextBlock
from serving.anthropic.conversation import MessageParam, chat_messages, continues
from serving.bodies import Body, NotServed
from serving.openai.chat_request import ChatRequest, thinking_switch
from serving.openai.sampling import Flag, Integer, Number, doc
from serving.server import Server

KEEP_THOUGHTS = {"type": "clear_thinking_20251015", "keep": "all"}


class ToolParam(Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool of the client's own."""

    name: Annotated[str, doc("Of the function.", minLength=1)]
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: Flag = None
    eager_input_streaming: Flag = None
    cache_control: CacheControl = None


class ToolChoiceParam(Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: Annotated[str | None, doc("Of the tool, with type tool.")] = None
    disable_parallel_tool_use: Annotated[Flag, doc("true: at most one call.")] = None


class ThinkingParam(Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[Integer, doc("Thoughts have no limit of their own: at least max_tokens.")] = None
    display: Literal["summarized"] | None = None


class OutputFormat(Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, kw_only=True, forbid_unknown_fields=True):
    effort: Annotated[Literal["low", "medium", "high", "xhigh", "max"] | None, doc("For the chat template.")] = None
    format: OutputFormat | None = None


class PromptFields(Body, kw_only=True):
    """What decides about the prompt."""

    model: Annotated[str | None, doc("A name that /v1/models lists; by default the first one.")] = None
    messages: Annotated[list[MessageParam], doc("The conversation.", minItems=1)]
    system: Annotated[str | list[TextBlock] | None, doc("What comes before the conversation.")] = None
    tools: Annotated[list[ToolParam] | None, doc("Functions that the model may call.")] = None
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingParam | None = None
    output_config: OutputConfig | None = None
    cache_control: Annotated[CacheControl, doc("Asks for nothing: equal beginnings are found anyway.")] = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, doc("Variables of the chat template.")] = None

    not_served: ClassVar = {
        "container": NotServed(),
        "context_management": NotServed("shorten the conversation", ({"edits": []}, {"edits": [KEEP_THOUGHTS]})),
        "diagnostics": NotServed(),
        "inference_geo": NotServed(),
        "kv_transfer_params": NotServed(),
        "mcp_servers": NotServed("give the model tools", ([],)),
        "speed": NotServed(neutral=("standard",)),
    }


class CountTokensRequest(PromptFields, kw_only=True):
    """A conversation whose tokens are to be counted."""


class MessagesRequest(PromptFields, kw_only=True):
    """A conversation to answer."""

    max_tokens: Annotated[int, doc("Most tokens to generate.", minimum=1)]
    temperature: Annotated[Number, doc("0 takes the most likely token.", minimum=0)] = None
    top_p: Annotated[Number, doc("Share of the probability to sample from.", exclusiveMinimum=0, maximum=1)] = None
    top_k: Annotated[Integer, doc("Tokens to sample from; 0 or -1: all.", minimum=-1)] = None
    stop_sequences: Annotated[list[str] | None, doc("Text that ends the output.")] = None
    stream: Annotated[Flag, doc("Send the answer in pieces.")] = None
    metadata: Annotated[dict[str, Any] | None, doc("For the client's own use.")] = None
    service_tier: Annotated[str | None, doc("There is one tier.")] = None
    timeout: Annotated[Number, doc("Seconds from its arrival, after which it fails.", exclusiveMinimum=0)] = None


def prompt_request(server: Server, body: PromptFields) -> ChatRequest:
    """A chat request with the same prompt. Raises InvalidRequest."""
    choice = body.tool_choice
    output = body.output_config or OutputConfig()
    messages = chat_messages(body.system, body.messages)
    return ChatRequest(
        model=body.model,
        messages=messages,
        continue_final_message=continues(messages),
        tools=None if body.tools is None else [_function(tool) for tool in body.tools],
        tool_choice=None if choice is None else _tool_choice(choice),
        parallel_tool_calls=not (choice is not None and choice.disable_parallel_tool_use),
        reasoning_effort=output.effort,
        response_format=None if output.format is None else _response_format(output.format),
        chat_template_kwargs={**_thinking(server, body), **(body.chat_template_kwargs or {})},
    )


def chat_request(server: Server, body: MessagesRequest) -> ChatRequest:
    """A chat request for the same answer. Raises InvalidRequest."""
    budget = None if body.thinking is None else body.thinking.budget_tokens
    if budget is not None and budget < body.max_tokens:
        problem = f"thoughts cannot be held to {budget} tokens apart from max_tokens"
        raise InvalidRequest("thinking.budget_tokens", problem, 'leave it out, or send {"type": "adaptive"}')
    request = prompt_request(server, body)
    request.max_tokens, request.stop, request.stream = body.max_tokens, body.stop_sequences, body.stream
    request.temperature, request.top_p, request.top_k = body.temperature, body.top_p, body.top_k
    request.timeout = body.timeout
    return request


def _function(tool: ToolParam) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.input_schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoiceParam) -> str | dict[str, Any]:
    if choice.type != "tool":
        return "required" if choice.type == "any" else choice.type
    if choice.name is None:
        raise InvalidRequest("tool_choice", "it names no tool", 'send {"type": "tool", "name": …}')
    return {"type": "function", "function": {"name": choice.name}}


def _response_format(form: OutputFormat) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.schema}}


def _thinking(server: Server, body: PromptFields) -> dict[str, Any]:
    """The chat template's variable that says whether to think. Raises InvalidRequest where that cannot be had."""
    if body.thinking is None:
        return {}
    wanted = body.thinking.type
    thinks = server.formats.reasoning is not None
    switch = thinking_switch(server, bool(body.tools))
    if switch is not None:
        return {switch: wanted != "disabled"}
    if thinks and wanted == "disabled":
        raise InvalidRequest("thinking", "this model's chat template cannot turn it off", "leave it out")
    if not thinks and wanted == "enabled":
        raise InvalidRequest("thinking", "this model is not known to think", "leave it out")
    return {}
