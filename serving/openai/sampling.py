"""The fields that requests share, and the SamplingParams that they ask for.

Names are OpenAI's and vLLM's; bounds are written down for the documentation and checked by SamplingParams.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from jaxengine.request import InvalidRequest, RequestOutputKind, SamplingParams
from serving.bodies import Body, NotServed
from serving.openai.constraints import structured_outputs
from serving.openai.schemas import NAME, RESPONSE_FORMAT, STOPS, STRUCTURED_OUTPUTS, TOKEN_BIASES, TOKEN_IDS
from serving.reading import Reading
from serving.server import Server


def doc(description: str, **schema: Any) -> Meta:
    """A field's words in the documentation, and its bounds as JSON schema has them."""
    return Meta(description=description, extra_json_schema=schema or None)


Flag = bool | None
Integer = int | None
Number = float | None
TokenIds = list[int] | None
Form = dict[str, Any] | None


class StreamOptions(msgspec.Struct, kw_only=True):
    include_usage: Annotated[Flag, doc("A last event with the usage.")] = None
    continuous_usage_stats: Annotated[Flag, doc("Every event has the usage so far.")] = None


class GenerationFields(Body, kw_only=True):
    """What any request may say about how its tokens are chosen and shown."""

    model: Annotated[str | None, doc("A name that /v1/models lists; by default the first one.")] = None
    temperature: Annotated[Number, doc("0 takes the most likely token.", minimum=0)] = None
    top_p: Annotated[Number, doc("Share of the probability to sample from.", exclusiveMinimum=0, maximum=1)] = None
    top_k: Annotated[Integer, doc("Tokens to sample from; 0 or -1: all.", minimum=-1)] = None
    min_p: Annotated[Number, doc("Least probability, relative to the largest.", minimum=0, maximum=1)] = None
    presence_penalty: Annotated[Number, doc("Over output tokens.", minimum=-2, maximum=2)] = None
    frequency_penalty: Annotated[Number, doc("Over output tokens.", minimum=-2, maximum=2)] = None
    repetition_penalty: Annotated[Number, doc("Over prompt and output; 1 is off.", exclusiveMinimum=0)] = None
    seed: Annotated[Integer, doc("The same seed gives the same tokens.", minimum=-(2**63), maximum=2**64 - 1)] = None
    stop: Annotated[str | list[str] | None, doc("Text that ends the output.", **STOPS)] = None
    stop_token_ids: Annotated[TokenIds, doc("Tokens that end the output.", **TOKEN_IDS)] = None
    include_stop_str_in_output: Flag = None
    ignore_eos: Annotated[Flag, doc("Go on past the end of sequence.")] = None
    min_tokens: Annotated[Integer, doc("No end before.", minimum=0)] = None
    logit_bias: Annotated[dict[str, float] | None, doc("Token id → what is added to its logit.", **TOKEN_BIASES)] = None
    allowed_token_ids: Annotated[TokenIds, doc("No other token is sampled.", minItems=1, **TOKEN_IDS)] = None
    bad_words: Annotated[list[str] | None, doc("Text that must not appear.", items=NAME)] = None
    skip_special_tokens: Flag = None
    spaces_between_special_tokens: Flag = None
    structured_outputs: Annotated[Form, doc("The same, as vLLM has it.", allOf=[STRUCTURED_OUTPUTS])] = None

    stream: Annotated[Flag, doc("Send the answer in pieces.")] = None
    cache_salt: Annotated[str | None, doc("Prompts share cached pages with the same salt only.", minLength=1)] = None
    priority: Annotated[Integer, doc("Lower runs earlier.")] = None
    timeout: Annotated[Number, doc("Seconds from its arrival, after which it fails.", exclusiveMinimum=0)] = None
    request_id: Annotated[str | None, doc("Becomes part of the answer's id.", maxLength=200)] = None
    return_tokens_as_token_ids: Annotated[Flag, doc("Logprobs name tokens as `token_id:N`.")] = None
    user: Annotated[str | None, doc("For the client's own use.")] = None
    metadata: Annotated[dict[str, Any] | None, doc("For the client's own use.")] = None
    safety_identifier: Annotated[str | None, doc("For the client's own use.")] = None
    prompt_cache_key: Annotated[str | None, doc("For the client's own use: equal beginnings are found anyway.")] = None
    service_tier: Annotated[str | None, doc("There is one tier.")] = None


class SamplingFields(GenerationFields, kw_only=True):
    """What completions and chats may say beside that."""

    n: Annotated[Integer, doc("Sequences to sample.", minimum=1)] = None
    use_beam_search: Annotated[Flag, doc("Answer with the n best of a search instead of samples.")] = None
    length_penalty: Annotated[Number, doc("Of beam search: above 1 prefers longer answers.")] = None
    prompt_logprobs: Annotated[Integer, doc("Most likely tokens at each place of the prompt.", minimum=-1)] = None
    response_format: Annotated[Form, doc("The form of the answer's text.", allOf=[RESPONSE_FORMAT])] = None
    stream_options: StreamOptions | None = None
    truncate_prompt_tokens: Annotated[Integer, doc("Keep this many; -1: what fits.", minimum=-1)] = None
    truncation_side: Annotated[Literal["left", "right"] | None, doc("Which end is cut off.")] = None
    return_token_ids: Annotated[Flag, doc("Of the prompt and of the answer.")] = None
    return_prompt_text: Flag = None


PASSED = (  # to SamplingParams, under the same name
    "n", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "seed", "stop", "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "min_tokens", "logit_bias",
    "allowed_token_ids", "bad_words", "prompt_logprobs", "skip_special_tokens", "spaces_between_special_tokens",
)  # fmt: skip

USE_STRUCTURED = NotServed("use structured_outputs")
NOT_SERVED: Mapping[str, NotServed] = {
    "best_of": NotServed("use n", (1,)),
    "early_stopping": NotServed(neutral=(False,)),
    "prompt_embeds": NotServed("send text or token ids"),
    "logits_processors": NotServed("use logit_bias, bad_words or allowed_token_ids", ([],)),
    "guided_json": USE_STRUCTURED,
    "guided_regex": USE_STRUCTURED,
    "guided_choice": USE_STRUCTURED,
    "guided_grammar": USE_STRUCTURED,
    "guided_decoding_backend": USE_STRUCTURED,
    "guided_whitespace_pattern": USE_STRUCTURED,
    "kv_transfer_params": NotServed(),
    "vllm_xargs": NotServed("no plugin reads it", ({},)),
    "mm_processor_kwargs": NotServed("only text is served", ({},)),
    "media_io_kwargs": NotServed("only text is served", ({},)),
    "repetition_detection": NotServed("use repetition_penalty"),
    "thinking_token_budget": NotServed("use max_tokens", (-1,)),
    "store": NotServed("answers are not kept", (False,)),
}


def sampling_params(
    server: Server, fields: SamplingFields, *, reading: Reading | None = None, **more: Any
) -> SamplingParams:
    """What the request asks for, over what the model's authors recommend. Raises InvalidRequest.

    reading: of a chat, which may fill the context unless max_tokens says otherwise. `more`: fields of one endpoint.
    """
    chosen: dict[str, Any] = {"max_tokens": None} if reading is not None else {}
    chosen |= server.engine.sampling_defaults
    chosen |= {name: value for name in PASSED if (value := getattr(fields, name)) is not None}
    chosen |= {name: value for name, value in more.items() if value is not None}
    constraint = structured_outputs(fields.response_format, fields.structured_outputs, reading)
    if constraint is not None:
        chosen["structured_outputs"] = constraint
    if reading is not None:
        chosen |= reading.sampling  # calls that must be made are the form of the answer
        ends = reading.formats.ends - server.engine.eos_token_ids
        if ends and not chosen.get("ignore_eos"):
            chosen["stop_token_ids"] = [*chosen.get("stop_token_ids", ()), *ends]
    if fields.stream or server.config.queue_timeout is not None:  # which is measured at the first token
        chosen["output_kind"] = RequestOutputKind.DELTA
    else:
        chosen["output_kind"] = RequestOutputKind.FINAL_ONLY
    return SamplingParams(**chosen)


def check(server: Server, fields: SamplingFields) -> None:
    """Rules that no model is needed for, beside those of SamplingParams."""
    server.check_model(fields.model)
    if fields.stream_options is not None and not fields.stream:
        raise InvalidRequest("stream_options", "there is no stream", "set stream=true or leave it out")
    if fields.cache_salt == "":
        raise InvalidRequest("cache_salt", "it is empty", "use a non-empty string or leave it out")
    if fields.timeout is not None and fields.timeout <= 0:
        raise InvalidRequest("timeout", f"got {fields.timeout:g}", "use seconds above 0, or leave it out")
    if fields.request_id is not None and not (fields.request_id.isprintable() and len(fields.request_id) <= 200):
        raise InvalidRequest("request_id", "it is too long or not printable", "use at most 200 characters")


def check_sequences(server: Server, sequences: int, field: str) -> None:
    most = server.config.max_sequences_per_request
    if sequences > most:
        raise InvalidRequest(
            field, f"{sequences} sequences are more than one request may ask for", f"use at most {most}"
        )


def wants_usage(server: Server, fields: SamplingFields) -> tuple[bool, bool]:
    """(a last event with the usage, the usage in every event)"""
    options = fields.stream_options or StreamOptions()
    return bool(options.include_usage or server.config.enable_force_include_usage), bool(options.continuous_usage_stats)
