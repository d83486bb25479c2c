"""What a request gives as its prompt → what the engine takes: cut to length, with its cache salt."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from jaxengine.prompts import PromptLike
from jaxengine.request import InvalidRequest, SamplingParams
from serving.openai.sampling import SamplingFields
from serving.server import Server


def prompt_list(prompt: str | list[Any]) -> list[str | list[int]]:
    """A text, texts, token ids, or lists of token ids → one entry a prompt."""
    if isinstance(prompt, str):
        return [prompt]
    kinds = set(map(type, prompt))
    if kinds == {int}:
        return [cast(list[int], prompt)]
    if not prompt or int in kinds:
        problem = "it mixes token ids and prompts" if prompt else "the list is empty"
        raise InvalidRequest("prompt", problem, "send a text, token ids, or a list of one of these")
    return prompt


async def engine_prompt(
    server: Server, prompt: str | list[int], fields: SamplingFields, params: SamplingParams, *, special: bool
) -> PromptLike:
    """`special`: whether the tokenizer puts its special tokens around a text."""
    if fields.truncate_prompt_tokens is not None:
        prompt = await _truncated(server, prompt, fields, params, special)
    if fields.cache_salt is None:
        return prompt
    if isinstance(prompt, str):
        return {"prompt": prompt, "cache_salt": fields.cache_salt}
    return {"prompt_token_ids": prompt, "cache_salt": fields.cache_salt}


async def _truncated(
    server: Server, prompt: str | list[int], fields: SamplingFields, params: SamplingParams, special: bool
) -> list[int]:
    ids = await encode(server, prompt, special) if isinstance(prompt, str) else prompt
    most = fields.truncate_prompt_tokens or 0
    if most < 1 and most != -1:
        raise InvalidRequest("truncate_prompt_tokens", f"got {most}", "use a number of at least 1, or -1: what fits")
    if most == -1:
        most = max(server.engine.max_model_len - (params.max_tokens or 1), 1)
    return ids[:most] if fields.truncation_side == "right" else ids[-most:]


async def encode(server: Server, text: str, special: bool = True) -> list[int]:
    """Token ids; in a thread, because texts may be long."""
    return (await asyncio.to_thread(server.tokenizer.encode_batch, [text], special))[0]
