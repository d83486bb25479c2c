"""Which bytes each token stands for, read from the `decoder` of a tokenizer.json.

`tokenizer.py` makes one ByteDecoder a model; text streams, and whatever must know what a token spells, use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SENTENCEPIECE_SPACE = "\u2581"


class ByteDecoder:
    """Token → bytes for byte-level BPE (GPT-2, Llama 3, Qwen) and for sentencepiece (Llama 2, Mistral, Gemma)."""

    def __init__(self, kind: str, *, strip_first: bool = False) -> None:
        self.kind = kind
        self.strip_first = strip_first  # the text's very first space is dropped

    @classmethod
    def of(cls, decoder: Mapping[str, Any] | None) -> ByteDecoder | None:
        """From tokenizer.json's `decoder`; None for a kind that looks at neighbouring tokens or that is not known."""
        steps = decoder.get("decoders", [decoder]) if decoder else []
        kinds = [step["type"] for step in steps if step["type"] != "Fuse"]
        if kinds == ["ByteLevel"]:
            return cls("byte_level")
        spaces = {"type": "Replace", "pattern": {"String": SENTENCEPIECE_SPACE}, "content": " "}
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        if kinds[:2] == ["Replace", "ByteFallback"] and steps[0] == spaces:
            rest = [step for step in steps[2:] if step["type"] != "Fuse"]
            if rest in ([], [strip]):
                return cls("sentencepiece", strip_first=bool(rest))
        return None

    def bytes_of(self, token: str) -> bytes:
        if self.kind == "byte_level":
            try:
                return bytes([BYTE_OF_CHARACTER[character] for character in token])
            except KeyError:  # an added token with characters outside the byte alphabet stands for itself
                return token.encode()
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes([int(token[3:5], 16)])
            except ValueError:
                pass
        return token.replace(SENTENCEPIECE_SPACE, " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte: itself where it is visible, else the next one from U+0100."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_alphabet()
