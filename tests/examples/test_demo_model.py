"""The demo model as shipped: files and sizes, tokenizer, chat template, and the corpus it was trained on."""

import json
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))  # the examples are scripts, not a package

import demo_corpus  # noqa: E402
from demo import render  # noqa: E402
from demo.kinds import Conversation, Plain, is_held_out, says  # noqa: E402
from demo.tokenizer import LEARNED, STARTS, TOKEN, document_text, encode_documents, pack  # noqa: E402

DEMO = ROOT / "jaxengine" / "demo"
_JSON = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
FILES = {"README.md", "model.safetensors", *_JSON}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "model" / "tokenizer.json"))


def rendered_by_jinja(messages: Any, tools: Any = None, add_generation_prompt: bool = False) -> str:
    template = json.loads((DEMO / "model" / "tokenizer_config.json").read_text())["chat_template"]
    environment = jinja2.Environment()
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(template).render(
        messages=messages, tools=tools, add_generation_prompt=add_generation_prompt
    )


def conversations(count: int) -> list[Conversation]:
    domains = (*demo_corpus.EXCHANGES, demo_corpus.MEMORY, demo_corpus.TOOLS)
    return [c for domain in domains for c in demo_corpus.held_out_conversations(7, domain, count)]


@pytest.mark.parametrize(("name", "most"), [("model", 8_000_000), ("draft", 1_700_000)])
def test_files_and_sizes(name: str, most: int) -> None:
    files = {path.name: path.stat().st_size for path in (DEMO / name).iterdir()}
    assert set(files) == FILES
    assert sum(files.values()) < most


@pytest.mark.parametrize("name", ["model", "draft"])
def test_weights_have_the_shapes_of_the_configuration(name: str) -> None:
    config = json.loads((DEMO / name / "config.json").read_text())
    raw = (DEMO / name / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    header.pop("__metadata__")
    hidden, head_dim = config["hidden_size"], config["head_dim"]
    assert header["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], hidden]
    assert "lm_head.weight" not in header
    assert {entry["dtype"] for entry in header.values()} == {"BF16"}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        assert header[f"{prefix}.self_attn.q_proj.weight"]["shape"] == [
            config["num_attention_heads"] * head_dim,
            hidden,
        ]
        assert header[f"{prefix}.self_attn.k_proj.weight"]["shape"] == [
            config["num_key_value_heads"] * head_dim,
            hidden,
        ]
        assert header[f"{prefix}.self_attn.q_norm.weight"]["shape"] == [head_dim]
        assert header[f"{prefix}.mlp.down_proj.weight"]["shape"] == [hidden, config["intermediate_size"]]
    assert len(header) == 2 + 11 * config["num_hidden_layers"]


def test_both_share_one_tokenizer() -> None:
    assert (DEMO / "model" / "tokenizer.json").read_bytes() == (DEMO / "draft" / "tokenizer.json").read_bytes()


def test_card_says_what_it_cannot_do() -> None:
    card = (DEMO / "model" / "README.md").read_text()
    assert "What it cannot do" in card
    assert "Held out" in card


def test_tokenizer_round_trip(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == 4096
    for text in (
        "Hello, world!",
        "naïve café\n\n 日本 ½\t🦊",
        'x = {"a": [1, 2.5]}\r\n',
        *map(document_text, conversations(2)),
    ):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_every_digit_is_a_token(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode([i]) for i in tokenizer.encode("1234").ids] == ["1", "2", "3", "4"]


def test_special_tokens_are_single(tokenizer: Tokenizer) -> None:
    config = json.loads((DEMO / "model" / "generation_config.json").read_text())
    for token in render.SPECIAL_TOKENS:
        assert tokenizer.encode(token).ids == [tokenizer.token_to_id(token)]
    ends = [tokenizer.token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>")]
    assert config["eos_token_id"] == ends
    assert tokenizer.decode(ends) == ""  # special
    call = tokenizer.token_to_id("<tool_call>")
    assert tokenizer.decode([call]) == "<tool_call>"  # not special, because parsers want to see it


def test_template_renders_what_the_model_was_trained_on() -> None:
    for c in conversations(8):
        assert rendered_by_jinja(c.messages, c.tools or None) == render.rendered(c.messages, c.tools)


def test_template_agrees_with_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(DEMO / "model")
    assert loaded.eos_token == "<|im_end|>"
    for c in conversations(2):
        asked = list(c.messages[:-1])
        tools = list(c.tools) or None
        theirs = loaded.apply_chat_template(asked, tools=tools, tokenize=False, add_generation_prompt=True)
        assert theirs == rendered_by_jinja(asked, tools, add_generation_prompt=True)


def test_template_takes_calls_without_a_function_and_text_arguments() -> None:
    bare = {"role": "assistant", "content": "Let me see.", "tool_calls": [{"name": "f", "arguments": '{"x": 1}'}]}
    text = rendered_by_jinja([says("user", "hi"), bare])
    assert text.endswith('Let me see.\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>\n')


def test_two_results_share_a_turn() -> None:
    text = rendered_by_jinja([says("user", "hi"), says("tool", "1"), says("tool", "2")])
    result = "\n<tool_response>\n{}\n</tool_response>"
    assert text.endswith(f"<|im_start|>user{result.format(1)}{result.format(2)}<|im_end|>\n")


def test_segments_are_encoded_as_the_whole_would_be(tokenizer: Tokenizer) -> None:
    made = conversations(3)
    for c, encoded in zip(made, encode_documents(tokenizer, made, seed=0), strict=True):
        assert encoded[0] & STARTS
        learned = tokenizer.decode((encoded[encoded >= LEARNED] & TOKEN).tolist(), skip_special_tokens=False)
        assert learned.endswith("<|im_end|>")
        if not c.tools:  # one in five lists tools with sorted keys
            assert (encoded & TOKEN).tolist() == tokenizer.encode(document_text(c), add_special_tokens=False).ids


def test_packing_keeps_documents_whole(tokenizer: Tokenizer) -> None:
    documents = [d for d in encode_documents(tokenizer, demo_corpus.documents(3, 0, 300), seed=0) if len(d) <= 512]
    packed = pack(documents, 512)
    flat = packed.reshape(-1)
    starts = [i for i in range(len(flat)) if flat[i] & STARTS]
    found = {tuple(flat[i:j].tolist()) for i, j in zip(starts, [*starts[1:], len(flat)], strict=True)}
    assert {tuple(d.tolist()) for d in documents} <= found


def test_held_out_questions_are_not_trained_on() -> None:
    trained = {
        message["content"]
        for d in demo_corpus.documents(0, 0, 20000)
        if not isinstance(d, Plain)
        for message in d.messages
        if message["role"] == "assistant"
    }
    sums = {c.messages[-1]["content"] for c in demo_corpus.held_out_conversations(0, "arithmetic", 200)}
    written = {answer for answer in sums if " + " in answer or " - " in answer}
    assert written
    assert not written & trained


def test_corpus_is_reproducible() -> None:
    assert list(demo_corpus.documents(5, 1, 50)) == list(demo_corpus.documents(5, 1, 50))
    assert list(demo_corpus.documents(5, 1, 50)) != list(demo_corpus.documents(5, 2, 50))
    assert 0.03 < sum(is_held_out(str(i)) for i in range(2000)) / 2000 < 0.07
