"""Streams of text are those of the whole decode, and stop strings do not depend on how the text is cut."""

import random

import pytest
import tiny_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxengine.detokenize import REPLACEMENT, ByteStream, Detokenizer, WindowStream, text_stream
from jaxengine.request import SamplingParams

TOKENIZERS = {kind: tiny_tokenizers.make(kind) for kind in tiny_tokenizers.KINDS}
BYTES = TOKENIZERS["byte_level"]


def stream(tokenizer, ids, prompt=(), skip=False, spaces=True):
    stream = text_stream(tokenizer, prompt, skip, spaces)
    return [stream.feed(token) for token in ids] + [stream.flush()]


def ids_of(tokenizer):
    return st.lists(st.integers(0, tokenizer.max_token_id), max_size=40)


def test_the_streams_fit_the_tokenizers():
    kinds = {kind: type(text_stream(tokenizer, (), False)) for kind, tokenizer in TOKENIZERS.items()}
    assert kinds == {"byte_level": ByteStream, "sentencepiece": ByteStream, "word_piece": WindowStream}


@given(ids_of(BYTES), st.booleans())
def test_byte_level_random_tokens(ids, skip):
    assert "".join(stream(BYTES, ids, skip=skip)) == BYTES.decode(ids, skip)


@given(ids_of(TOKENIZERS["sentencepiece"]), st.booleans())
def test_sentencepiece_random_tokens(ids, skip):
    tokenizer = TOKENIZERS["sentencepiece"]
    whole = tokenizer.decode(ids, skip)
    streamed = "".join(stream(tokenizer, ids, skip=skip))
    if REPLACEMENT not in whole:  # the library shows one U+FFFD for each byte of a run with a bad byte, good ones too
        assert streamed == whole
    else:
        assert REPLACEMENT in streamed


@given(ids_of(TOKENIZERS["word_piece"]), st.booleans())
def test_word_piece_random_tokens(ids, skip):
    tokenizer = TOKENIZERS["word_piece"]
    assert "".join(stream(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip)


@given(st.lists(st.integers(0, 255), max_size=30))
def test_window_stream_agrees_with_the_bytes_at_the_end(values):
    """The general stream, on a tokenizer that has a better one: whole characters are the same."""
    text = bytes(values).decode("utf-8", "ignore")
    ids = BYTES.encode(text, add_special_tokens=False)
    window = WindowStream(BYTES, (), False, True)
    assert "".join([*map(window.feed, ids), window.flush()]) == text


@pytest.mark.parametrize("stream_type", [ByteStream, WindowStream])
@given(st.text(max_size=30))
def test_no_part_of_a_character_is_shown(stream_type, text):
    text = text.replace(REPLACEMENT, "")
    ids = [token for byte in text.encode() for token in [BYTES.encode_byte(byte)]]
    arguments = (BYTES, (), False) if stream_type is ByteStream else (BYTES, (), False, True)
    made = stream_type(*arguments)
    shown = ""
    for token in ids:
        shown += made.feed(token)
        assert text.startswith(shown)
    assert shown + made.flush() == text


@pytest.fixture(autouse=True, scope="module")
def _byte_tokens():
    vocabulary = {BYTES.token_bytes(i): i for i in range(BYTES.max_token_id + 1)}
    BYTES.encode_byte = lambda byte: vocabulary[bytes([byte])]
    yield
    del BYTES.encode_byte


def test_a_cut_character_is_shown_at_the_end_only():
    ids = [BYTES.encode_byte(byte) for byte in "é".encode()][:1]
    assert stream(BYTES, ids) == ["", REPLACEMENT]


def test_the_prompt_decides_about_the_first_space():
    tokenizer = TOKENIZERS["sentencepiece"]
    the = tokenizer.token_id("▁the")
    assert "".join(stream(tokenizer, [the], prompt=[1], skip=True)) == "the"
    assert "".join(stream(tokenizer, [the], prompt=[1, the], skip=True)) == " the"
    assert "".join(stream(tokenizer, [the], prompt=[1], skip=False)) == " the"


def test_spaces_between_special_tokens():
    tokenizer = TOKENIZERS["word_piece"]
    sep, fox = tokenizer.token_id("[SEP]"), tokenizer.token_id("fox")
    ids = [fox, sep, sep, fox]
    assert "".join(stream(tokenizer, ids)) == "fox [SEP] [SEP] fox"
    assert "".join(stream(tokenizer, ids, spaces=False)) == "fox [SEP][SEP] fox"
    assert "".join(stream(tokenizer, ids, skip=True)) == "fox fox"


def test_long_texts_forget_their_beginning():
    window = WindowStream(BYTES, (), False, True)
    ids = BYTES.encode(tiny_tokenizers.TEXTS[1] * 30)
    assert "".join([*map(window.feed, ids), window.flush()]) == tiny_tokenizers.TEXTS[1] * 30
    assert len(window._ids) < 300


# Stop strings


def run(ids, **params):
    """(shown pieces, stop string) of a run that ends with a match or with the tokens."""
    detokenizer = Detokenizer(BYTES, (), SamplingParams(max_tokens=None, **params))
    pieces = []
    for token in ids:
        pieces.append(detokenizer.feed(token))
        if detokenizer.stopped:
            break
    return [*pieces, detokenizer.finish()], detokenizer.stopped


def expected(text, stops, include=False):
    """By definition: the match that is complete first, the longest of those."""
    for end in range(len(text) + 1):
        matches = [stop for stop in stops if text[:end].endswith(stop)]
        if matches:
            longest = max(matches, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


def cut(text, rng):
    """The same text as tokens of random lengths."""
    ids = []
    while text:
        size = rng.randint(1, 4)
        ids += BYTES.encode(text[:size], add_special_tokens=False)
        text = text[size:]
    return ids


@settings(max_examples=300)
@given(
    st.text(alphabet="abcé ", max_size=25),
    st.lists(st.text(alphabet="abcé ", min_size=1, max_size=6), min_size=1, max_size=3),
    st.booleans(),
    st.randoms(),
)
def test_stops_at_any_chunking(text, stops, include, rng):
    pieces, stopped = run(cut(text, rng), stop=stops, include_stop_str_in_output=include)
    assert ("".join(pieces), stopped) == expected(text, stops, include)
    shown = ""
    final = "".join(pieces)
    for piece in pieces:  # nothing that was shown is taken back
        shown += piece
        assert final.startswith(shown)


def test_only_a_possible_beginning_is_held_back():
    ids = [BYTES.encode_byte(byte) for byte in b"xSTxSTOPx"]
    pieces, stopped = run(ids, stop=["STOP"])
    assert pieces == ["x", "", "", "STx", "", "", "", "", ""]
    assert stopped == "STOP"


def test_stop_inside_a_token_cuts_the_rest():
    ids = [BYTES.token_id("Ġthe")] if BYTES.token_id("Ġthe") else BYTES.encode(" the")
    assert "".join(run(ids, stop=["h"])[0]) == " t"
    assert "".join(run(ids, stop=["h"], include_stop_str_in_output=True)[0]) == " th"


@pytest.mark.parametrize(
    ("min_tokens", "text", "stop"), [(0, "", "ab"), (1, "", "ab"), (2, "ab", "ab"), (4, "abab", None)]
)
def test_min_tokens(min_tokens, text, stop):
    ids = [BYTES.encode_byte(byte) for byte in b"abab"]
    pieces, stopped = run(ids, stop=["ab"], min_tokens=min_tokens)
    assert ("".join(pieces), stopped) == (text, stop)


def test_min_tokens_lets_a_match_begin_early_but_not_end_early():
    ids = [BYTES.encode_byte(byte) for byte in b"xbyz"]
    pieces, stopped = run(ids, stop=["xby", "b"], min_tokens=2)
    assert ("".join(pieces), stopped) == ("", "xby")


def test_one_long_random_text():
    rng = random.Random(0)
    text = "".join(rng.choice("ab") for _ in range(3000))
    stops = ["abababababab", "bbbbbbbbbbbb"]
    assert run(cut(text, rng), stop=stops)[1] == expected(text, stops)[1]
