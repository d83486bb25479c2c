"""Tokenizers of a few hundred tokens, made here: byte-level, sentencepiece with byte fallback, and word pieces."""

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxengine.tokenizer import Tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog. Stop here, please stop.",
    "naïve café – déjà vu; 東京の天気は晴れです。 Привет, мир! 🎉👩‍🚀🇩🇪",
    "def f(x):\n    return x ** 2  # square\n\n\ttab",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("<|é ü|>", normalized=False)])
    return tokenizer


def sentencepiece() -> tokenizers.Tokenizer:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*"▁abcdehilmnoprstuwé東", "▁the", "▁st", "op", "▁stop", "stop", "▁▁", "ab", "abc"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "st"), ("o", "p"), ("▁st", "op")]
    merges = [(left, right) for left, right in merges if left in vocab and right in vocab and left + right in vocab]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def word_piece() -> tokenizers.Tokenizer:
    """A decoder that looks at neighbours: no byte table fits it."""
    words = ["[UNK]", "the", "a", "stop", "fox", "##es", "##ing", "##s", "東", "##京", "[SEP]", "[CLS]"]
    tokenizer = tokenizers.Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(["[UNK]", "[SEP]", "[CLS]"])
    return tokenizer


KINDS = {"byte_level": byte_level, "sentencepiece": sentencepiece, "word_piece": word_piece}


def make(kind: str = "byte_level") -> Tokenizer:
    return Tokenizer(KINDS[kind](), {"eos_token": {"byte_level": "<|im_end|>", "sentencepiece": "</s>"}.get(kind)})


def save(path: Path, kind: str = "byte_level", **config: object) -> Path:
    KINDS[kind]().save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path
