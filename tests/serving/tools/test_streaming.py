"""However an answer is cut into pieces, and whatever a model writes: the same message, and never an error."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models_write import EXAMPLE, MARKERS, TOOLS, WRITERS

from serving.reasoning import REASONING
from serving.tools.events import CallArguments, CallStart, Content, Event, Reasoning, fold, merged
from serving.tools.message import message_parser
from serving.tools.registry import FORMATS

NAMES = sorted({tool_format.name for tool_format in FORMATS.values()})
PARSERS = [(tools, None) for tools in NAMES] + [(None, thinking) for thinking in REASONING]
PARSERS += [("qwen3_xml", "qwen3"), ("glm45", "glm45"), ("deepseek_v3", "deepseek_r1"), ("mistral", "mistral")]
PROMPTS = [None, "user <think> ", "assistant\n<think>\n", "<think>\n\n</think>\n\n", "[THINK]"]

whole_answers = st.sampled_from([write(EXAMPLE) for write in WRITERS])
arbitrary = st.text(st.characters(codec=None), max_size=20)
answers = st.lists(st.one_of(st.sampled_from(MARKERS), arbitrary, whole_answers), max_size=16).map("".join)
few = settings(max_examples=80, deadline=None)


def events_of(pieces: list[str], tools: str | None, reasoning: str | None, prompt: str | None = None) -> list[Event]:
    parser = message_parser(tools=tools, reasoning=reasoning, tool_definitions=TOOLS, prompt=prompt)
    return merged([event for piece in pieces for event in parser.feed(piece)] + parser.finish())


def cut(text: str, places: list[int]) -> list[str]:
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[begin:end] for begin, end in pairwise(ends)]


@pytest.mark.parametrize(("tools", "reasoning"), PARSERS)
@few
@given(text=answers, places=st.lists(st.integers(0, 10**6), max_size=12), prompt=st.sampled_from(PROMPTS))
def test_any_cut_gives_the_events_of_the_whole(
    tools: str | None, reasoning: str | None, text: str, places: list[int], prompt: str | None
) -> None:
    whole = events_of([text], tools, reasoning, prompt)
    assert events_of(cut(text, places), tools, reasoning, prompt) == whole
    assert events_of(list(text), tools, reasoning, prompt) == whole
    assert_orderly(whole)


def assert_orderly(events: list[Event]) -> None:
    """Calls are numbered from 0, arguments belong to the call that began last, and no event is empty."""
    calls = -1
    for event in events:
        match event:
            case CallStart(index, name):
                calls += 1
                assert index == calls
                assert name
            case CallArguments(index, text):
                assert index == calls
                assert text
            case Content(text) | Reasoning(text):
                assert text


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_an_answer_cut_short_anywhere_keeps_its_complete_calls(write) -> None:
    text = write(EXAMPLE)
    for end in range(len(text) + 1):
        whole = events_of([text[:end]], WRITERS[write], None)
        assert events_of(list(text[:end]), WRITERS[write], None) == whole
        calls = fold(whole).calls
        for call in calls[:-1]:
            assert isinstance(json.loads(call.arguments), dict)
    assert [(call.name, json.loads(call.arguments)) for call in calls] == EXAMPLE


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@few
@given(data=st.data())
def test_a_broken_answer_loses_no_word(write, data) -> None:
    """One character of a well-formed answer replaced or left out: what is no call any more is content."""
    text = write([("get_weather", {"city": "alpha beta", "days": 1}), ("get_weather", {"city": "gamma"})])
    place = data.draw(st.integers(0, len(text) - 1))
    broken = (
        text[:place]
        + data.draw(st.sampled_from(["", "x", "{", "}", '"', "<", ">", "\n", ",", "]", "é"]))
        + text[place + 1 :]
    )
    message = fold(events_of([broken], WRITERS[write], None))
    said = (
        (message.content or "")
        + (message.reasoning or "")
        + "".join(call.name + call.arguments for call in message.calls)
    )
    for word in ("alpha", "beta", "gamma"):
        if word in broken:
            assert word in said


plain = st.text(st.characters(codec="utf-8", exclude_characters="<[{"), max_size=60)


@pytest.mark.parametrize("tools", NAMES)
@few
@given(text=plain)
@example(text="  \n")
@example(text="see a < b, [1] and {x}\n")
def test_text_without_markers_is_content_as_it_stands(tools: str, text: str) -> None:
    if tools == "openai" and text.lstrip(" ").startswith("to="):
        return
    assert fold(events_of(list(text), tools, None)).content == (text or None)


@pytest.mark.parametrize("tools", NAMES)
def test_content_is_not_held_back(tools: str) -> None:
    parser = message_parser(tools=tools, reasoning=None, tool_definitions=TOOLS)
    for word in ["The", " price", " is", " < 5", " and", " [x]", " {y}", " <b>"]:
        assert fold(parser.feed(word)).content is not None


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_arguments_stream(write) -> None:
    text = write([("get_weather", {"city": "word " * 200})])
    parser = message_parser(tools=WRITERS[write], reasoning=None, tool_definitions=TOOLS)
    told = [event for event in parser.feed(text[: len(text) // 2]) if isinstance(event, CallArguments)]
    assert (
        len("".join(event.text for event in told)) > 400 or WRITERS[write] == "pythonic"
    )  # whose calls are told whole


HARD = {
    "brackets": "[" * 20_000,
    "objects": '{"a":' * 10_000,
    "call, deep": '<tool_call>{"name": "f", "arguments": ' + '{"a": [' * 4_000,
    "openings": "<tool_call>" * 2_000,
    "nearly": "<tool_call>\n<function=" * 1_000,
    "headers": "<|start|>assistant" * 1_000,
    "digits": '[TOOL_CALLS][{"name": "f", "arguments": {"a": ' + "9" * 10_000,
    "escapes": '<tool_call>{"name": "f", "arguments": {"a": "' + "\\u12" * 5_000,
    "values": "<tool_call>get_weather\n<arg_key>city</arg_key><arg_value>" + "</arg_value>x" * 1_000,
    "python": "[get_weather(city=" + "(" * 10_000,
    "spaces": " \n" * 10_000 + "x",
}


@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
def test_hard_answers_cost_no_more_than_their_length(text: str) -> None:
    """20 kB in pieces of four characters: a quadratic reader would take minutes."""
    for tools in NAMES:
        parser = message_parser(tools=tools, reasoning="qwen3", tool_definitions=TOOLS)
        for place in range(0, len(text), 4):
            parser.feed(text[place : place + 4])
        parser.finish()
