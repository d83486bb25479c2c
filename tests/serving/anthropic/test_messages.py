"""/v1/messages and /v1/messages/count_tokens through the anthropic package: answers, streams, calls, thoughts."""

import anthropic
import pytest
from asked import MESSAGES, WEATHER, ask

THINKS = """{% for m in messages %}<{{ m.role }}>{{ m.reasoning_content }}|{{ m.content }}{% endfor %}
{%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"""


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def without_ids(message):
    return [block.model_dump(exclude={"id", "parsed_output"}) for block in message.content]


def test_an_answer(messages, served):
    answer = messages.create(**ask())
    chat = served.openai.chat.completions.create(model="demo", messages=MESSAGES, temperature=0, max_tokens=12)
    assert text_of(answer) == chat.choices[0].message.content
    assert (answer.type, answer.role, answer.model, answer.stop_reason) == (
        "message",
        "assistant",
        "demo",
        "end_turn",
    )
    assert answer.id.startswith("msg-")
    usage = answer.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == chat.usage.prompt_tokens
    assert usage.output_tokens == chat.usage.completion_tokens


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
        {"extra": {"temperature": 1, "top_p": 0.5, "top_k": 1, "mcp_servers": []}, "metadata": {"user_id": "7"}},
        {"stop_sequences": ["a"], "max_tokens": 60},
        {"messages": [*MESSAGES, {"role": "assistant", "content": [{"type": "text", "text": "I am"}]}]},
        {"tools": [WEATHER], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "max_tokens": 100},
        {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "get_weather"}, "max_tokens": 100},
        {"tools": [WEATHER], "tool_choice": {"type": "auto"}, "max_tokens": 60},
        {"tools": [WEATHER], "tool_choice": {"type": "none"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {"enum": ["yes", "no"]}}}},
    ],
)
def test_a_stream_adds_up_to_the_answer_and_the_count_to_the_usage(messages, changes):
    options = ask(**changes)
    whole = messages.create(**options)
    with messages.stream(**options) as stream:
        part = stream.get_final_message()
    assert without_ids(part) == without_ids(whole)
    assert (part.stop_reason, part.stop_sequence) == (whole.stop_reason, whole.stop_sequence)
    assert part.usage.output_tokens == whole.usage.output_tokens
    counted = {"messages", "model", "system", "tools", "tool_choice", "output_config"}
    count = messages.count_tokens(**{name: value for name, value in options.items() if name in counted}).input_tokens
    for usage in whole.usage, part.usage:
        assert count == usage.input_tokens + usage.cache_read_input_tokens


def test_the_count_is_the_input_where_nothing_is_cached(connect, serve):
    served = serve(enable_prompt_tokens_details=False)
    client = connect(served)
    usage = client.create(**ask()).usage
    assert client.count_tokens(model="demo", messages=MESSAGES).input_tokens == usage.input_tokens
    assert usage.cache_read_input_tokens is None


def test_events(messages):
    events = list(messages.create(**ask(stream=True, max_tokens=3)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]  # the client keeps pings to itself
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert (events[0].message.content, events[0].message.stop_reason) == ([], None)
    assert (events[-2].delta.stop_reason, events[-2].usage.output_tokens) == ("max_tokens", 3)


def test_names_of_events(served):
    answer = served.post("/v1/messages", messages=MESSAGES, max_tokens=1, stream=True)
    lines = [line.split(": ", 1) for line in answer.text.splitlines() if line]
    assert [value for name, value in lines if name == "event"][:3] == ["message_start", "ping", "content_block_start"]
    assert 'data: {"type":"ping"}' in answer.text
    assert "[DONE]" not in answer.text


def test_stop_sequences(messages):
    text = text_of(messages.create(**ask()))
    answer = messages.create(**ask(stop_sequences=[text[4:8]]))
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", text[4:8])
    assert text_of(answer) == text[: text.index(text[4:8])]


@pytest.mark.parametrize(
    "choice", [{"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "get_weather"}]
)
def test_calls_that_must_be_made(messages, choice):
    answer = messages.create(**ask(tools=[WEATHER], tool_choice=choice, max_tokens=100))
    (call,) = answer.content
    assert (call.type, call.name, answer.stop_reason) == ("tool_use", "get_weather", "tool_use")
    assert call.input.keys() == {"city"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    after = [*MESSAGES, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    assert text_of(messages.create(**ask(messages=after, tools=[WEATHER], tool_choice={"type": "none"})))


def test_a_call_that_is_cut_off(messages):
    answer = messages.create(**ask(tools=[WEATHER], tool_choice={"type": "any"}, max_tokens=12))
    assert answer.stop_reason == "max_tokens"
    assert [block.input for block in answer.content if block.type == "tool_use"] in ([], [{}])


def test_thoughts(connect, serve):
    """The demo model does not think: what it is told to continue is its thought."""
    client = connect(serve(reasoning_parser="qwen3"))
    started = [*MESSAGES, {"role": "assistant", "content": "<think>I"}]
    whole = client.create(**ask(messages=started))
    assert [(block.type, block.signature) for block in whole.content] == [("thinking", "unsigned")]
    with client.stream(**ask(messages=started)) as stream:
        assert without_ids(stream.get_final_message()) == without_ids(whole)
    again = [{"role": "assistant", "content": whole.content}, {"role": "user", "content": "And?"}]
    assert client.create(**ask(messages=[*MESSAGES, *again])).content


def test_whether_to_think(connect, serve):
    """The template's switch is used where there is one, and its absence is told."""
    client = connect(serve(chat_template=THINKS, reasoning_parser="qwen3"))

    def count(thinking):
        return client.count_tokens(model="demo", messages=MESSAGES, thinking=thinking).input_tokens

    assert count({"type": "disabled"}) > count({"type": "adaptive"}) == count({"type": "enabled", "budget_tokens": 5})
    assert client.create(**ask(thinking={"type": "enabled", "budget_tokens": 12})).usage.output_tokens
    always = connect(serve(reasoning_parser="qwen3"))
    with pytest.raises(anthropic.BadRequestError, match="cannot turn it off"):
        always.create(**ask(thinking={"type": "disabled"}))
