"""What parsers tell, as blocks: in one piece and as the events of a stream."""

import pytest

from serving.anthropic import wire
from serving.anthropic.answers import Growing, blocks
from serving.anthropic.blocks import TextBlock, ThinkingBlock, ToolUseBlock
from serving.tools.events import CallArguments, CallStart, Content, Reasoning

EVENTS = [
    Reasoning("First, "), Reasoning("I think."), Content("Then"), Content(" I speak."),
    CallStart(0, "look"), CallArguments(0, '{"at"'), CallArguments(0, ': "it"}'),
    CallStart(1, "wait"), CallArguments(1, "{}"), Content("Done."),
]  # fmt: skip
BLOCKS = [
    ThinkingBlock(thinking="First, I think.", signature="unsigned"),
    TextBlock(text="Then I speak."),
    ToolUseBlock(id="", name="look", input={"at": "it"}),
    ToolUseBlock(id="", name="wait", input={}),
    TextBlock(text="Done."),
]


def toolu():
    return "toolu_1"


def without_ids(made):
    for block in made:
        if isinstance(block, ToolUseBlock):
            assert block.id.startswith("toolu_")
            block.id = ""
    return made


def test_blocks():
    assert without_ids(blocks(EVENTS, toolu)) == BLOCKS


@pytest.mark.parametrize("length", range(1, len(EVENTS) + 1))
def test_a_stream_opens_and_closes_each_block_once(length):
    growing = Growing(toolu)
    sent = [each for event in EVENTS[:length] for each in growing.add(event)] + list(growing.close())
    made = without_ids(blocks(EVENTS[:length], toolu))
    starts = [each for each in sent if isinstance(each, wire.BlockStart)]
    assert [type(each.content_block) for each in starts] == [type(block) for block in made]
    for kind in wire.BlockStart, wire.BlockStop:
        assert [each.index for each in sent if isinstance(each, kind)] == list(range(len(made)))
    assert [each.index for each in sent] == sorted(each.index for each in sent)
    thoughts = [each.delta for each in sent if isinstance(each, wire.BlockDelta) and each.index == 0]
    assert thoughts[-1] == wire.SignatureDelta("unsigned")


def test_arguments_that_are_cut_off_or_no_object():
    for text in '{"at": "i', "[1]", "":
        (call,) = blocks([CallStart(0, "look"), CallArguments(0, text)], toolu)
        assert call.input == {}
