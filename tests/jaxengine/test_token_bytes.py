"""The bytes of each token are those that the library's decoder makes."""

import tiny_tokenizers

from jaxengine.token_bytes import BYTE_OF_CHARACTER, ByteDecoder


def test_the_alphabet_is_the_librarys():
    from tokenizers.pre_tokenizers import ByteLevel

    assert set(BYTE_OF_CHARACTER) == set(ByteLevel.alphabet())
    assert sorted(BYTE_OF_CHARACTER.values()) == list(range(256))


def test_bytes_of_every_byte_level_token():
    tokenizer = tiny_tokenizers.make("byte_level")
    for token in range(tokenizer.max_token_id + 1):
        assert tokenizer.token_bytes(token).decode("utf-8", "replace") == tokenizer.decode(token)


def test_bytes_of_sentencepiece_tokens():
    decoder = tiny_tokenizers.make("sentencepiece").byte_decoder
    assert decoder.bytes_of("<0xE6>") == b"\xe6"
    assert decoder.bytes_of("▁the") == b" the"
    assert decoder.bytes_of("<0xZZ>") == b"<0xZZ>"
    assert decoder.strip_first


def test_unknown_decoders_have_no_bytes():
    assert ByteDecoder.of(None) is None
    assert ByteDecoder.of({"type": "WordPiece", "prefix": "##", "cleanup": True}) is None
    assert tiny_tokenizers.make("word_piece").token_bytes(1) is None
