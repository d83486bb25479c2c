"""What a chat request may say, and how it becomes the engine's Job. Other chat protocols come through here too."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from jaxengine.request import InvalidRequest
from serving.bodies import NotServed
from serving.generation import Job
from serving.openai.beams import answer_params, beam_params
from serving.openai.conversation import read_messages
from serving.openai.prompts import engine_prompt
from serving.openai.sampling import (
    NOT_SERVED,
    Flag,
    Integer,
    SamplingFields,
    check,
    check_sequences,
    doc,
    sampling_params,
)
from serving.openai.schemas import MESSAGE, TOOL, TOOL_CHOICE
from serving.reading import Reading, Tools
from serving.server import Server

OWN_VARIABLES = {  # of templates: what has a field of its own
    "self", "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "variables",
}  # fmt: skip
SWITCHES = {"enable_thinking": "enable_thinking", "thinking is defined": "thinking"}  # in a template → its variable
USE_TOOLS = NotServed("use tools and tool_choice")


class ChatRequest(SamplingFields, kw_only=True):
    """An answer to a conversation."""

    messages: Annotated[list[dict[str, Any]], doc("The conversation.", allOf=[{"minItems": 1, "items": MESSAGE}])]
    max_completion_tokens: Annotated[Integer, doc("Most tokens to generate; by default what fits.", minimum=1)] = None
    max_tokens: Annotated[Integer, doc("The older name of max_completion_tokens.", minimum=1)] = None
    logprobs: Annotated[Flag, doc("Log probabilities of the answer's tokens.")] = None
    top_logprobs: Annotated[Integer, doc("Most likely tokens to list at each place.", minimum=-1)] = None
    tools: Annotated[list[dict[str, Any]] | None, doc("Functions that the model may call.", items=TOOL)] = None
    tool_choice: Annotated[
        str | dict[str, Any] | None, doc("none, auto, required, or one of the tools.", allOf=[TOOL_CHOICE])
    ] = None
    parallel_tool_calls: Annotated[Flag, doc("false: at most one call.")] = None
    include_reasoning: Annotated[Flag, doc("false: the answer comes without it.")] = None
    reasoning_effort: Annotated[
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None, doc("For the chat template.")
    ] = None
    echo: Annotated[Flag, doc("The answer begins with the last message when it is of the same role.")] = None
    add_generation_prompt: Annotated[Flag, doc("The template opens the answer; true by default.")] = None
    continue_final_message: Annotated[Flag, doc("The answer continues the last message.")] = None
    add_special_tokens: Annotated[Flag, doc("Beside those that the template writes; false by default.")] = None
    documents: Annotated[list[dict[str, Any]] | None, doc("For the chat template.")] = None
    chat_template: Annotated[str | None, doc("In place of the model's, where the server allows it.")] = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, doc("Variables of the chat template.")] = None

    not_served: ClassVar = {
        **NOT_SERVED,
        "audio": NotServed("only text is made"),
        "modalities": NotServed("only text is made", (["text"],)),
        "functions": USE_TOOLS,
        "function_call": USE_TOOLS,
        "prediction": NotServed(),
        "verbosity": NotServed("ask for it in a message", ("medium",)),
        "web_search_options": NotServed("give the model a tool"),
    }


async def chat_job(server: Server, request_id: str, body: ChatRequest) -> tuple[Job, Reading]:
    """The engine's work, and how its text is to be read. Raises InvalidRequest and Refusal."""
    check_sequences(server, body.n or 1, "n")
    check(server, body)
    tools = Tools.of(server.formats, body.tools or (), body.tool_choice, body.parallel_tool_calls is not False)
    text = render(server, body, tools)
    reading = Reading.of(server.formats, tools, text, _continued(body))
    max_tokens, logprobs = _max_tokens(body), _logprobs(body)
    beams = beam_params(body, max_tokens or server.engine.max_model_len)
    if beams is not None:
        params = answer_params(body, reading)
    else:
        params = sampling_params(server, body, reading=reading, max_tokens=max_tokens, logprobs=logprobs)
    special = bool(body.add_special_tokens)
    prompt = await engine_prompt(server, text, body, params, special=special)
    job = Job(
        request_id,
        [prompt],
        params,
        priority=server.check_priority(body.priority),
        add_special_tokens=special,
        beams=beams,
        timeout=body.timeout,
    )
    return job, reading


def render(server: Server, body: ChatRequest, tools: Tools) -> str:
    """The prompt's text. Raises InvalidRequest for what the chat template refuses."""
    if body.chat_template is not None and not server.config.trust_request_chat_template:
        raise InvalidRequest(
            "chat_template", "this server takes none", "start it with --trust-request-chat-template, or leave it out"
        )
    variables = {**server.config.default_chat_template_kwargs, **(body.chat_template_kwargs or {})}
    if body.reasoning_effort is not None:
        variables["reasoning_effort"] = body.reasoning_effort
    if taken := sorted(OWN_VARIABLES & variables.keys()):
        raise InvalidRequest("chat_template_kwargs", f"{', '.join(taken)} is no variable", "use the field of that name")
    tokenizer = server.tokenizer
    hidden = server.config.exclude_tools_when_tool_choice_none and tools.choice.mode == "none"
    shown = None if hidden or not tools.definitions else tools.definitions
    template = tokenizer.templates.choose(body.chat_template or server.chat_template, shown is not None)
    add = body.add_generation_prompt
    return tokenizer.render_chat(
        read_messages(body.messages, template),
        tools=shown,
        documents=body.documents,
        chat_template=template,
        add_generation_prompt=not body.continue_final_message if add is None else add,
        continue_final_message=bool(body.continue_final_message),
        **variables,
    )


def thinking_switch(server: Server, tools: bool) -> str | None:
    """The chat template's variable that says whether to think; None where there is none."""
    if server.formats.reasoning is None:
        return None
    template = server.tokenizer.templates.choose(server.chat_template, tools)
    return next((name for mark, name in SWITCHES.items() if mark in template), None)


def _continued(body: ChatRequest) -> str:
    """What the prompt already holds of the answer."""
    content = body.messages[-1].get("content") if body.messages and body.continue_final_message else None
    return content if isinstance(content, str) else ""


def _max_tokens(body: ChatRequest) -> int | None:
    if body.max_completion_tokens is not None and body.max_tokens not in (None, body.max_completion_tokens):
        raise InvalidRequest("max_tokens", "it differs from max_completion_tokens", "send one of them")
    return body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens


def _logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs", "logprobs were not asked for", "set logprobs=true")
    return (body.top_logprobs or 0) if body.logprobs else None
