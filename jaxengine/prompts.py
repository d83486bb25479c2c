"""What callers may give as a prompt, brought to one form: token ids, their text if known, and a cache salt.

`llm.py` and `async_engine.py` call it; it needs a tokenizer only for text.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from jaxengine.request import InvalidRequest
from jaxengine.tokenizer import Tokenizer, require_tokenizer


class TextPrompt(TypedDict):
    prompt: str
    cache_salt: NotRequired[str]  # prompts share cached pages only with the same salt


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]
    prompt: NotRequired[str]
    cache_salt: NotRequired[str]


LONG_TEXT = 8192  # characters
PromptLike = str | list[int] | TextPrompt | TokensPrompt


@dataclass(frozen=True, slots=True)
class Prompt:
    token_ids: list[int]
    text: str | None = None
    cache_salt: str | None = None


def prompt_list(prompts: Any) -> list[Any]:
    """One prompt or several → several. A list of integers is one prompt of token ids."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if not isinstance(prompts, Iterable):
        return [prompts]  # refused when it is read
    prompts = list(prompts)
    return [prompts] if prompts and _are_integers(prompts) else prompts


def read_prompts(
    prompts: Sequence[Any], tokenizer: Tokenizer | None, *, add_special_tokens: bool = True
) -> list[Prompt]:
    """Token ids for all of them; texts are encoded together. Raises InvalidRequest that says which prompt is wrong."""
    parts = [_parts(prompt, f"prompt {place}" if len(prompts) > 1 else "it") for place, prompt in enumerate(prompts)]
    texts = [text for ids, text, _ in parts if ids is None and text is not None]
    encoded: list[list[int]] = []
    if texts:
        encoded = require_tokenizer(tokenizer, "a text prompt").encode_batch(texts, add_special_tokens)
    rest = iter(encoded)
    return [Prompt(next(rest) if ids is None else ids, text, salt) for ids, text, salt in parts]


async def read_prompt(prompt: Any, tokenizer: Tokenizer | None, *, add_special_tokens: bool = True) -> Prompt:
    """`read_prompts` of one; a long text is encoded in a thread, for the event loop's sake."""
    text = prompt.get("prompt") if isinstance(prompt, Mapping) else prompt
    read = functools.partial(read_prompts, [prompt], tokenizer, add_special_tokens=add_special_tokens)
    long = isinstance(text, str) and len(text) > LONG_TEXT
    (result,) = await asyncio.to_thread(read) if long else read()
    return result


def _parts(prompt: Any, which: str) -> tuple[list[int] | None, str | None, str | None]:
    """(token ids, text, cache salt)"""
    if isinstance(prompt, str):
        return None, prompt, None
    if not isinstance(prompt, Mapping):
        return _token_ids(prompt, which), None, None
    unknown = sorted(set(prompt) - {"prompt", "prompt_token_ids", "cache_salt"})
    if unknown:
        raise InvalidRequest("prompt", f"{which} has {', '.join(unknown)}", "use prompt, prompt_token_ids, cache_salt")
    text, salt, ids = prompt.get("prompt"), prompt.get("cache_salt"), prompt.get("prompt_token_ids")
    if salt is not None and (not isinstance(salt, str) or not salt):
        raise InvalidRequest("cache_salt", f"{which} has {salt!r}", "use a non-empty string")
    if text is not None and not isinstance(text, str):
        raise InvalidRequest("prompt", f"{which} has a {type(text).__name__}", "use a string")
    if ids is None and text is None:
        raise InvalidRequest("prompt", f"{which} has neither text nor tokens", "give prompt or prompt_token_ids")
    return (None if ids is None else _token_ids(ids, which)), text, salt


def _token_ids(ids: Any, which: str) -> list[int]:
    if hasattr(ids, "tolist"):  # numpy, jax
        ids = ids.tolist()
    of = ""
    if isinstance(ids, Sequence) and not isinstance(ids, bytes):
        if _are_plain(ids):
            return list(ids)
        if all(map(_is_integer, ids)):
            return list(map(int, ids))
        of = " of something else"
    problem = f"{which} is a {type(ids).__name__}{of}"
    raise InvalidRequest("prompt", problem, "give text, token ids or a dictionary")


def _are_integers(items: Sequence[Any]) -> bool:
    return _are_plain(items) or all(map(_is_integer, items))


def _are_plain(items: Sequence[Any]) -> bool:
    """Whether all are Python's own integers; a loop in C, because prompts are long."""
    return set(map(type, items)) <= {int}


def _is_integer(item: Any) -> bool:
    return (isinstance(item, int) and not isinstance(item, bool)) or (
        hasattr(item, "__index__") and not isinstance(item, bool | Sequence) and getattr(item, "ndim", 0) == 0
    )
