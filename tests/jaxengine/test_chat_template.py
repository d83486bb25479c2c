"""Chats render as transformers renders them, and what a template may not do is refused."""

import json

import pytest
import tiny_tokenizers

from jaxengine.chat_template import read_template
from jaxengine.request import InvalidRequest
from jaxengine.tokenizer import Tokenizer

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Größe & <b>?"},
    {"role": "assistant", "content": "  Yes "},
]
TOOL = {
    "type": "function",
    "function": {"name": "wetter", "description": "für <Ort>", "parameters": {"type": "object", "properties": {}}},
}
ALL = """{{- bos_token }}
{%- for m in messages %}
    {%- if loop.index0 == 10 %}{% break %}{% endif %}
    {%- if m.role == 'assistant' %}
{% generation %}A:{{ m['content'] | trim }}{{ eos_token }}{% endgeneration %}
    {%- else %}
[{{ m.role }}] {{ m.content }}
    {%- endif %}
{% endfor %}
{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{% for d in documents or [] %}({{ d.title }}: {{ d.text }}){% endfor %}
{% if thinking_on is defined and thinking_on %}<think>{% endif %}
{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}
{% if add_generation_prompt %}A:{% endif %}"""
TEMPLATES = {"plain": tiny_tokenizers.CHAT_TEMPLATE, "all": ALL}


def both(tmp_path, template, **config):
    transformers = pytest.importorskip("transformers")
    path = tiny_tokenizers.save(
        tmp_path, bos_token="<|endoftext|>", eos_token="<|im_end|>", chat_template=template, **config
    )
    return Tokenizer.load(path), transformers.AutoTokenizer.from_pretrained(str(path))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_generation_prompt": True},
        {"continue_final_message": True},
        {"tools": [TOOL], "add_generation_prompt": True},
        {"documents": [{"title": "t", "text": "x"}], "thinking_on": True},
    ],
    ids=lambda options: "+".join(options) or "nothing",
)
def test_same_as_transformers(tmp_path, template, options):
    ours, theirs = both(tmp_path, TEMPLATES[template])
    options = {"add_generation_prompt": False, **options}
    text = ours.render_chat(CHAT, **options)
    assert text == theirs.apply_chat_template(CHAT, tokenize=False, **options)
    ids = theirs.apply_chat_template(CHAT, tokenize=True, return_dict=False, **options)
    assert ours.apply_chat_template(CHAT, **options) == ids


def test_named_templates(tmp_path):
    named = [
        {"name": "default", "template": "d"},
        {"name": "tool_use", "template": "t"},
        {"name": "rag", "template": "r"},
    ]
    tokenizer, _ = both(tmp_path, named)
    assert tokenizer.chat_template == "d"
    assert tokenizer.render_chat(CHAT) == "d"
    assert tokenizer.render_chat(CHAT, tools=[TOOL]) == "t"
    assert tokenizer.render_chat(CHAT, chat_template="rag") == "r"
    assert tokenizer.render_chat(CHAT, chat_template="{{ messages | length }}") == "3"


def test_template_files_come_first(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("file")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("more")
    tokenizer, theirs = both(tmp_path, "config")
    assert tokenizer.render_chat(CHAT) == "file" == theirs.apply_chat_template(CHAT, tokenize=False)
    assert tokenizer.render_chat(CHAT, chat_template="rag") == "more"


def test_text_parts():
    tokenizer = tiny_tokenizers.make()
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert tokenizer.render_chat(parts, chat_template="{{ messages[0].content }}") == "a\nb"
    looped = "{% for m in messages %}{% for part in m['content'] %}<{{ part.text }}>{% endfor %}{% endfor %}"
    assert tokenizer.render_chat(parts, chat_template=looped) == "<a><b>"
    parts[0]["content"].append({"type": "image_url", "image_url": {"url": "x"}})
    with pytest.raises(InvalidRequest, match="type 'image_url'"):
        tokenizer.render_chat(parts, chat_template="{{ messages[0].content }}")


def test_tool_calls_and_reasoning():
    tokenizer = tiny_tokenizers.make()
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    chat = [{"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]}]
    template = "{{ messages[0].reasoning_content }} {{ messages[0].tool_calls[0].function.arguments.x + 1 }}"
    assert tokenizer.render_chat(chat, chat_template=template) == "hm 2"
    assert call["function"]["arguments"] == '{"x": 1}'  # the caller's messages stay as they were
    call["function"]["arguments"] = "{"
    with pytest.raises(InvalidRequest, match="arguments are not JSON"):
        tokenizer.render_chat(chat, chat_template=template)


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        (CHAT, {}, "no chat template"),
        (CHAT, {"chat_template": "{% for %}"}, "does not compile"),
        (CHAT, {"chat_template": "{{ raise_exception('only one turn') }}"}, "only one turn"),
        (CHAT, {"chat_template": "{{ messages[9].content }}"}, "refuses them"),
        (CHAT, {"chat_template": "{{ 1 / 0 }}"}, "cannot render"),
        ([], {"chat_template": "x"}, "empty"),
        ([{"content": "x"}], {"chat_template": "x"}, "message 0 has no role"),
        (CHAT, {"chat_template": "x", "tools": [print]}, "must be a JSON object"),
        (CHAT, {"chat_template": "x", "continue_final_message": True}, "cannot both continue"),
        (
            CHAT,
            {"chat_template": "x", "continue_final_message": True, "add_generation_prompt": False},
            "leaves the last message out",
        ),
        (CHAT, {"chat_template": "{{ messages.__class__.__mro__ }}"}, "unsafe"),
        (CHAT, {"chat_template": "{{ messages.append(1) }}"}, "unsafe"),
    ],
)
def test_refused(messages, options, message):
    with pytest.raises(InvalidRequest, match=message):
        tiny_tokenizers.make().render_chat(messages, **options)


def test_filters_and_globals():
    render = tiny_tokenizers.make().render_chat
    value = {"é": "<&>"}
    assert render(CHAT, chat_template="{{ v | tojson }}", v=value) == json.dumps(value, ensure_ascii=False)
    assert render(CHAT, chat_template="{{ strftime_now('%Y') }}").isdigit()
    assert render(CHAT, chat_template="{% if true %}\n  x\n{% endif %}\ny") == "  x\ny"


def test_objects_are_hidden_from_templates():
    class Thing:
        secret = "s"

    assert tiny_tokenizers.make().render_chat(CHAT, chat_template="{{ v }}{{ v.secret }}", v=Thing()) == "<Thing>"


def test_templates_may_be_files(tmp_path):
    (tmp_path / "t.jinja").write_text("{{ 1 }}")
    assert read_template(tmp_path / "t.jinja") == read_template(str(tmp_path / "t.jinja")) == "{{ 1 }}"
    assert read_template("{{ 2 }}") == "{{ 2 }}"
    assert read_template(None) is None
