"""Thinking blocks: where they begin and end, and where tags are only mentioned."""

from __future__ import annotations

import pytest

from serving.reasoning import REASONING, State, detect_reasoning_parser, thinking_grammar
from serving.tools.events import Content, Message, Reasoning, fold
from serving.tools.lark import Lark
from serving.tools.message import message_parser, parse_message

OPENED, CLOSED, NEITHER = (
    "<|im_start|>assistant\n<think>\n",
    "assistant\n<think>\n\n</think>\n\n",
    "<|im_start|>assistant\n",
)


def read(text: str, name: str = "qwen3", prompt: str | None = NEITHER, **options: str) -> Message:
    return parse_message(text, tools=None, reasoning=name, prompt=prompt, **options)


@pytest.mark.parametrize(
    ("prompt", "text", "message"),
    [
        (NEITHER, "<think>\nhm\n</think>\n\nYes.", Message("hm", "Yes.")),
        (NEITHER, "Yes.\n", Message(None, "Yes.\n")),
        (NEITHER, "\n<think>hm</think>Yes.", Message("hm", "Yes.")),
        (NEITHER, "The tag <think> opens, </think> closes.", Message(None, "The tag <think> opens, </think> closes.")),
        (NEITHER, "<think>hm</think>Say <think>x</think>.", Message("hm", "Say <think>x</think>.")),
        (NEITHER, "<think>hm, a < b and </thin", Message("hm, a < b and </thin", None)),
        (NEITHER, "<think>\n\n</think>\n\nYes.", Message(None, "Yes.")),
        (OPENED, "hm\n</think>\n\nYes.", Message("hm", "Yes.")),
        (OPENED, "<think>\nhm</think>Yes.", Message("hm", "Yes.")),
        (OPENED, "hm", Message("hm", None)),
        (CLOSED, "Yes.", Message(None, "Yes.")),
        (CLOSED, "<think> is a tag.", Message(None, "<think> is a tag.")),
        ("What does <think> mean?<|im_end|>\n<|im_start|>assistant\n", "A tag.", Message(None, "A tag.")),
    ],
)
def test_blocks(prompt: str, text: str, message: Message) -> None:
    assert read(text, prompt=prompt) == message


def test_an_unknown_prompt() -> None:
    assert read("hm</think>Yes.", "deepseek_r1", None) == Message("hm", "Yes.")
    assert read("hm</think>Yes.", "deepseek_r1", "<｜Assistant｜></think>") == Message(None, "hm</think>Yes.")
    assert read("hm", "qwen3", None) == Message(None, "hm")


def test_an_answer_that_is_continued() -> None:
    assert read("more</think>Yes.", prompt=None, continued="<think>\nsome ") == Message("more", "Yes.")
    assert read("<think> is a tag", prompt=None, continued="The tag ") == Message(None, "<think> is a tag")
    assert REASONING["qwen3"].state("<think>x</think>y", "<think>x</think>y") is State.AFTER


def test_other_families() -> None:
    assert read("[THINK]hm[/THINK]Yes.", "mistral", "[/INST]") == Message("hm", "Yes.")
    assert read("\n<think>hm</think>\nYes.", "glm45", "<|assistant|>") == Message("hm", "Yes.")


def test_thinking_streams_as_it_comes() -> None:
    parser = message_parser(tools=None, reasoning="deepseek_r1", prompt=OPENED)
    assert parser.feed("Let me") == [Reasoning("Let me")]
    assert parser.feed(" see <") == [Reasoning(" see")]
    assert parser.feed("b>.\n") == [Reasoning(" <b>.")]
    assert parser.feed("</think>\n\nYes") == [Content("Yes")]
    assert parser.feed(" </think>") == [Content(" </think>")]
    assert parser.finish() == []


def test_a_call_ends_a_block_that_was_not_closed() -> None:
    text = "I call.\n<tool_call>\n<function=f>\n</function>\n</tool_call>"
    message = parse_message(text, tools="qwen3_xml", reasoning="qwen3", prompt=OPENED)
    assert (message.reasoning, message.content, [call.name for call in message.calls]) == ("I call.", None, ["f"])
    mentions = "A <tool_call> would help.</think>No."
    message = parse_message(mentions, tools="qwen3_xml", reasoning="qwen3", prompt=OPENED)
    assert message == Message("A <tool_call> would help.", "No.")


def test_calls_in_thoughts_are_thoughts() -> None:
    text = '<think>Should I <tool_call>{"name": "f", "arguments": {}}</tool_call>?</think>No.'
    message = parse_message(text, tools="hermes", reasoning="qwen3", prompt=NEITHER)
    assert message == Message('Should I <tool_call>{"name": "f", "arguments": {}}</tool_call>?', "No.")


def test_without_parsers_text_passes_at_once() -> None:
    parser = message_parser(tools=None, reasoning=None)
    assert [parser.feed(text) for text in ("a <", " \n", "")] == [[Content("a <")], [Content(" \n")], []]
    assert fold(parser.finish()) == Message()


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ '<|start|>assistant<|channel|>final<|message|>' }}", "openai"),
        ("{{ '[THINK]' + thoughts + '[/THINK]' }}", "mistral"),
        ("[gMASK]<sop>{{ '<think></think>' }}", "glm45"),
        ("{{ content.split('</think>')[-1] }}{{ '<｜Assistant｜><think>\\n' }}", "deepseek_r1"),
        ("{{ '<|im_start|>assistant\\n<think>\\n' }}", "qwen3"),
        ("{{ '<|im_start|>assistant\\n' }}", None),
    ],
)
def test_a_template_tells_the_family(template: str, name: str | None) -> None:
    assert detect_reasoning_parser(template) == name


def test_what_comes_before_a_forced_text() -> None:
    lark = Lark()
    prefix = thinking_grammar(lark, REASONING["openai"], State.BEFORE)
    grammar = lark.grammar(f'{prefix} "text"')
    assert '"<|channel|>final<|message|>"' in grammar
    assert '"<|channel|>analysis<|message|>"' in grammar
    assert thinking_grammar(Lark(), REASONING["qwen3"], State.AFTER) == ""
