"""Text to token ids and back, read from a model directory's tokenizer.json and tokenizer_config.json.

`llm.py`, `async_engine.py` and the servers encode prompts and render chats with it; `detokenize.py` takes its table of
token bytes. It rests on the `tokenizers` library alone. Its methods may be called from several threads at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from jaxengine.chat_template import ChatTemplates, read_templates
from jaxengine.request import InvalidRequest
from jaxengine.token_bytes import ByteDecoder

NAMED_SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TokenizerError(ValueError):
    """A tokenizer that cannot be read; the message says what would help."""


class Tokenizer:
    """One model's tokenizer. `vocab_size` counts the added tokens; ids may have gaps (`token` gives None there)."""

    def __init__(
        self, backend: tokenizers.Tokenizer, config: Mapping[str, Any], templates: ChatTemplates | None = None
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.config = dict(config)
        self.templates = templates or ChatTemplates({})
        self.special_tokens: dict[str, str] = {
            name: text for name in NAMED_SPECIALS if (text := _content(config.get(name))) is not None
        }
        _apply_config(backend, config, self.special_tokens)
        added = backend.get_added_tokens_decoder()
        self.added_tokens: dict[int, str] = {id: token.content for id, token in added.items()}
        self.special_ids: frozenset[int] = frozenset(id for id, token in added.items() if token.special)
        self.bos_token_id = self._named_id("bos_token")
        self.eos_token_id = self._named_id("eos_token")
        self.pad_token_id = self._named_id("pad_token")
        self.unk_token_id = self._named_id("unk_token")
        self._texts: dict[int, str] = {}
        self._bytes: tuple[dict[int, bytes], dict[int, bytes]] = ({}, dict.fromkeys(self.special_ids, b""))

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a directory. Without tokenizer.json, transformers (if installed) converts what is there."""
        path = Path(path)
        config = _read_json(path / "tokenizer_config.json")
        for name, value in _read_json(path / "special_tokens_map.json").items():
            config.setdefault(name, value)
        if (path / "tokenizer.json").is_file():
            try:
                backend = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
            except Exception as error:  # the library raises bare Exception
                raise TokenizerError(f"{path / 'tokenizer.json'} cannot be read: {error}") from error
        else:
            backend, config = _convert(path, config)
        return cls(backend, config, read_templates(path, config))

    def _named_id(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        return None if text is None else self.backend.token_to_id(text)

    def __len__(self) -> int:
        return self.vocab_size

    @cached_property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    @cached_property
    def max_token_id(self) -> int:
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def get_vocab(self) -> dict[str, int]:
        return self.backend.get_vocab(with_added_tokens=True)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """In parallel, outside the interpreter's lock."""
        return [e.ids for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)]

    def decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def token(self, token_id: int) -> str | None:
        """The vocabulary's own spelling (a space is Ġ or ▁)."""
        return self.backend.id_to_token(token_id)

    def token_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def token_text(self, token_id: int) -> str:
        """A token's text by itself, as logprobs show it; part of a character shows as U+FFFD."""
        text = self._texts.get(token_id)
        if text is None:
            data = self.token_bytes(token_id)
            text = self.decode(token_id) if data is None else data.decode("utf-8", "replace")
            self._texts[token_id] = text
        return text

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes that a token adds to the text; None when its decoder does not work token by token.

        An id without a token adds nothing.
        """
        if self.byte_decoder is None:
            return None
        token = self.backend.id_to_token(token_id)
        return b"" if token is None else self.byte_decoder.bytes_of(token)

    def bytes_table(self, skip_special_tokens: bool) -> dict[int, bytes]:
        """`token_bytes` of the tokens met so far, filled by its users; special tokens are empty when skipped."""
        return self._bytes[skip_special_tokens]

    @cached_property
    def byte_decoder(self) -> ByteDecoder | None:
        """How each token becomes bytes, when this tokenizer's decoder is one of the kinds that allow it."""
        decoder = self.backend.decoder
        return ByteDecoder.of(None if decoder is None else json.loads(decoder.__getstate__()))

    # Chat

    @property
    def chat_template(self) -> str | None:
        return self.templates.default

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt's text. `chat_template` is a template or the name of one of the model's."""
        return self.templates.render(
            messages,
            tools=tools,
            documents=documents,
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={**self.special_tokens, **variables},
        )

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        **arguments: Any,
    ) -> str | list[int]:
        """`render_chat` under the name and the defaults that transformers gives it."""
        text = self.render_chat(conversation, add_generation_prompt=add_generation_prompt, **arguments)
        return self.encode(text, add_special_tokens=False) if tokenize else text


def _content(token: Any) -> str | None:
    """Special tokens are written as a string or as {"content": …}."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _apply_config(backend: tokenizers.Tokenizer, config: Mapping[str, Any], specials: Mapping[str, str]) -> None:
    """What tokenizer_config.json says beyond tokenizer.json: more added tokens, and the bos and eos around a text."""
    listed: dict[str, AddedToken] = {}
    for entry in (config.get("added_tokens_decoder") or {}).values():
        flags = {name: bool(entry.get(name, False)) for name in ("single_word", "lstrip", "rstrip", "special")}
        flags["normalized"] = bool(entry.get("normalized", not flags["special"]))
        listed[entry["content"]] = AddedToken(entry["content"], **flags)
    named = list(specials.values())
    for key in ("extra_special_tokens", "additional_special_tokens"):
        extra = config.get(key) or []
        named += [t for value in (extra.values() if isinstance(extra, Mapping) else extra) if (t := _content(value))]
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for content in (*listed, *dict.fromkeys(named)):
        if content not in known:
            known.add(content)
            token = listed.get(content) or AddedToken(content, special=True)
            add = backend.add_special_tokens if token.special or content in named else backend.add_tokens
            add([token])
    if "add_bos_token" in config or "add_eos_token" in config:
        around = {}
        for side in ("bos", "eos"):
            text = specials.get(f"{side}_token") if config.get(f"add_{side}_token") else None
            if text is not None and (id := backend.token_to_id(text)) is not None:
                around[side] = (text, id)
        single = [
            *([around["bos"][0]] if "bos" in around else []),
            "$A",
            *([around["eos"][0]] if "eos" in around else []),
        ]
        backend.post_processor = TemplateProcessing(single=single, special_tokens=list(dict.fromkeys(around.values())))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is not valid JSON: {error}") from error


def _convert(path: Path, config: dict[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """A sentencepiece or tiktoken tokenizer, through transformers' converters."""
    missing = f"{path} has no tokenizer.json"
    if not any(path.glob("*tok*")) and not any(path.glob("*.model")) and not (path / "vocab.json").is_file():
        raise TokenizerError(
            f"{missing} nor any other tokenizer file; name one with tokenizer=, or skip_tokenizer_init=True"
        )
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise TokenizerError(f"{missing}; converting its tokenizer needs `pip install jaxengine[torch]`") from None
    try:
        converted = AutoTokenizer.from_pretrained(str(path))
        backend = tokenizers.Tokenizer.from_str(converted.backend_tokenizer.to_str())
    except Exception as error:
        raise TokenizerError(f"{missing} and transformers cannot convert its tokenizer: {error}") from error
    for name in ("add_bos_token", "add_eos_token", "added_tokens_decoder"):  # already in what was converted
        config.pop(name, None)
    return backend, {**{k: str(v) for k, v in converted.special_tokens_map.items() if isinstance(v, str)}, **config}


def require_tokenizer(tokenizer: Tokenizer | None, purpose: str) -> Tokenizer:
    if tokenizer is None:
        raise InvalidRequest(
            "prompt", f"{purpose} needs a tokenizer", "send token ids or load without skip_tokenizer_init"
        )
    return tokenizer
