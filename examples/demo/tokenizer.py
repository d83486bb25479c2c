"""The demo model's tokenizer: byte-level BPE with 4,096 tokens, every digit a token of its own.

Called by examples/train_demo_model.py. Documents become uint16 tokens whose top bit marks what is learned.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from demo.kinds import Conversation, Plain
from demo.render import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS, segments

VOCAB_SIZE = 4096
CONTEXT = 2048
LEARNED = 1 << 15  # bit of a token that counts in the loss
STARTS = 1 << 14  # bit of a document's first token
TOKEN = STARTS - 1
# Qwen's splitting: contractions, words with the space before them, single digits, punctuation, line ends, spaces
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    described = json.loads(tokenizer.to_str())
    for token in described["added_tokens"]:  # the trainer makes all special, but a parser wants to see <tool_call>
        token["special"] = "<|" in token["content"]
    trained = Tokenizer.from_str(json.dumps(described))
    assert trained.get_vocab_size() == VOCAB_SIZE
    return trained


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    described = {
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": "<|" in token,
            }
            for token in SPECIAL_TOKENS
        },
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TURN,
        "errors": "replace",
        "model_max_length": CONTEXT,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")


def document_segments(document: Conversation | Plain, sort_keys: bool = False) -> list[tuple[str, bool]]:
    if isinstance(document, Plain):
        return [(document.text + END_OF_TEXT, True)]
    return list(segments(document.messages, document.tools, sort_keys))


def document_text(document: Conversation | Plain) -> str:
    return "".join(text for text, _ in document_segments(document))


def encode_documents(
    tokenizer: Tokenizer, documents: Iterable[Conversation | Plain], seed: int
) -> Iterator[np.ndarray]:
    """Each document's tokens, uint16 with the bits LEARNED and STARTS."""
    rng, left = Random(seed), iter(documents)
    while chunk := [document_segments(d, rng.random() < 0.2) for d in islice(left, 1024)]:
        encoded = iter(
            tokenizer.encode_batch_fast([text for parts in chunk for text, _ in parts], add_special_tokens=False)
        )
        for parts in chunk:
            tokens: list[int] = []
            for _, learned in parts:
                ids = next(encoded).ids
                tokens += [i | LEARNED for i in ids] if learned else ids
            tokens[0] |= STARTS
            yield np.array(tokens, np.uint16)


def pack(documents: Iterable[np.ndarray], length: int, open_rows: int = 32) -> np.ndarray:
    """Whole documents into rows [rows, length], each into the fullest open row that has room; the rest is padding."""
    rows: list[list[np.ndarray]] = []
    room: dict[int, int] = {}  # open row → tokens left
    for document in documents:
        if len(document) > length:
            continue
        fitting = [row for row, left in room.items() if left >= len(document)]
        if fitting:
            row = min(fitting, key=room.__getitem__)
        else:
            if len(room) == open_rows:
                del room[min(room, key=room.__getitem__)]
            row = len(rows)
            rows.append([])
            room[row] = length
        rows[row].append(document)
        room[row] -= len(document)
    packed = np.full((len(rows), length), STARTS, np.uint16)  # padding: one-token documents, never learned
    for i, parts in enumerate(rows):
        whole = np.concatenate(parts)
        packed[i, : len(whole)] = whole
    return packed
