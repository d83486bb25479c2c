"""The same ids and texts as transformers' AutoTokenizer, from the same files."""

import pytest
import tiny_tokenizers

from jaxengine.tokenizer import Tokenizer, TokenizerError

SAMPLES = [*tiny_tokenizers.TEXTS, "", " the", "the the<|im_end|>stop", "  two  spaces ", "<s>the</s>", "<|é ü|>"]
CONFIGS = {
    "byte_level": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "sentencepiece": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "word_piece": {"unk_token": "[UNK]"},
}


def both(path):
    transformers = pytest.importorskip("transformers")
    return Tokenizer.load(path), transformers.AutoTokenizer.from_pretrained(str(path))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("special", [True, False])
def test_same_as_transformers(tmp_path, kind, special):
    ours, theirs = both(tiny_tokenizers.save(tmp_path, kind, **CONFIGS[kind]))
    for text in SAMPLES:
        ids = ours.encode(text, add_special_tokens=special)
        assert ids == theirs.encode(text, add_special_tokens=special)
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip, clean_up_tokenization_spaces=False)
    assert ours.encode_batch(SAMPLES, special) == [ours.encode(text, special) for text in SAMPLES]
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert set(ours.special_ids) == set(theirs.all_special_ids) | {
        id for id, token in theirs.added_tokens_decoder.items() if token.special
    }
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos", [True, False])
def test_bos_and_eos_by_configuration(tmp_path, bos, eos):
    config = {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"}, "add_bos_token": bos}
    tokenizer = Tokenizer.load(tiny_tokenizers.save(tmp_path, **config, add_eos_token=eos))
    ids = tokenizer.encode("the")
    assert (ids[0] == tokenizer.bos_token_id) == bos
    assert (ids[-1] == tokenizer.eos_token_id) == eos
    assert tokenizer.encode("the", add_special_tokens=False) == ids[bos : len(ids) - eos]


def test_added_tokens_of_the_configuration(tmp_path):
    added = {
        "900": {"content": "<tool>", "special": False},
        "901": {"content": "<|x|>", "special": True, "lstrip": True},
    }
    path = tiny_tokenizers.save(tmp_path, added_tokens_decoder=added, pad_token="<pad>", extra_special_tokens=["<e>"])
    ours, theirs = both(path)
    text = "a <tool>b  <|x|>c<pad><e>"
    assert ours.encode(text) == theirs.encode(text)
    special = {ours.token(id) for id in ours.special_ids}
    assert {"<|x|>", "<pad>", "<e>"} <= special
    assert "<tool>" not in special


def test_truncation_of_the_file_is_off(tmp_path):
    backend = tiny_tokenizers.byte_level()
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.load(tmp_path).encode("a b c d e f g")) == len(tiny_tokenizers.make().encode("a b c d e f g"))


def test_tokens_one_by_one():
    tokenizer = tiny_tokenizers.make()
    the = tokenizer.encode(" the", add_special_tokens=False)
    assert "".join(map(tokenizer.token_text, the)) == " the"
    assert tokenizer.token_text(the[0]).startswith(" ")
    assert tokenizer.token(the[0]).startswith("Ġ")
    assert tokenizer.token_id(tokenizer.token(the[0])) == the[0]
    assert tokenizer.token(10**6) is None
    assert tokenizer.token_bytes(10**6) == b""
    assert tokenizer.max_token_id == tokenizer.vocab_size - 1


def test_no_tokenizer(tmp_path):
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json nor any other"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.load(tmp_path)


def test_without_tokenizer_json(tmp_path):
    """GPT-2's vocab.json and merges.txt, converted by transformers."""
    pytest.importorskip("transformers")
    tiny_tokenizers.byte_level().model.save(str(tmp_path))
    config = '{"tokenizer_class": "GPT2Tokenizer", "eos_token": "!", "bos_token": "!", "unk_token": "!"}'
    (tmp_path / "tokenizer_config.json").write_text(config)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("the quick") == tiny_tokenizers.make().encode("the quick")
    assert tokenizer.eos_token_id == tokenizer.token_id("!")
