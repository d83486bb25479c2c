"""The packaged model's tokenizer and chat template, as transformers reads them."""

import json
from pathlib import Path

import pytest

import jaxengine
from jaxengine.detokenize import text_stream
from jaxengine.tokenizer import Tokenizer

DIRECTORY = Path(jaxengine.__file__).parent / "demo" / "model"
TEXTS = ["Hello, world!", "naïve 東京 🎉👩‍🚀", " 12 + 30 = 42\n\n\tdef f(x):", "<|im_start|>user\nhi<|im_end|>", ""]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a “city”.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
CHATS = {
    "plain": [{"role": "user", "content": "Hi"}],
    "turns": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ],
    "tools": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": json.dumps({"sky": "clear"}), "tool_call_id": "1"},
    ],
}


@pytest.fixture(scope="module")
def both():
    transformers = pytest.importorskip("transformers")
    return Tokenizer.load(DIRECTORY), transformers.AutoTokenizer.from_pretrained(str(DIRECTORY))


def test_ids_and_texts(both):
    ours, theirs = both
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)
        stream = text_stream(ours, (), False)
        assert "".join(map(stream.feed, ids)) + stream.flush() == text
    assert (len(ours), ours.eos_token_id, ours.pad_token_id) == (len(theirs), theirs.eos_token_id, theirs.pad_token_id)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["", "tools"])
def test_chats(both, chat, tools):
    ours, theirs = both
    text = ours.render_chat(CHATS[chat], tools=tools)
    assert text == theirs.apply_chat_template(CHATS[chat], tools=tools, tokenize=False, add_generation_prompt=True)
    assert ours.encode(text, add_special_tokens=False) == theirs.apply_chat_template(
        CHATS[chat], tools=tools, add_generation_prompt=True, return_dict=False
    )
