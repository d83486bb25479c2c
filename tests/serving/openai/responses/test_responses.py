"""/v1/responses through the openai package: answers and streams, items, calls, thoughts, conversations that go on."""

import json

import openai
import pydantic
import pytest
from requests_for import CALL, LOGPROBS, TALE, THOUGHTS, WEATHER, ask, without_ids

CITY = {"type": "json_schema", "name": "answer", "schema": {"enum": ["yes", "no"]}, "strict": True}


def streamed(responses, **options):
    """The events, after the client's own accumulator has read them."""
    with responses.stream(**options) as stream:
        return list(stream)


def final(events):
    assert events[-1].type in ("response.completed", "response.incomplete")
    return events[-1].response


def test_an_answer(responses, served):
    answer = responses.create(**ask(instructions="Be brief.", metadata={"a": "b"}, user="me"))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, who are you?"}]
    chat = served.openai.chat.completions.create(model="demo", messages=messages, temperature=0, max_tokens=12)
    assert answer.output_text == chat.choices[0].message.content
    assert (answer.object, answer.status, answer.model, answer.error) == ("response", "completed", "demo", None)
    assert answer.id.startswith("resp_")
    assert (answer.instructions, answer.metadata, answer.user) == ("Be brief.", {"a": "b"}, "me")
    assert (answer.temperature, answer.max_output_tokens, answer.tool_choice) == (0, 12, "auto")
    (message,) = answer.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert (message.content[0].annotations, message.content[0].logprobs) == ([], [])
    assert message.id.startswith("msg_")
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens) == (chat.usage.prompt_tokens, chat.usage.completion_tokens)
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert answer.completed_at >= answer.created_at


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_output_tokens": 3},
        {"include": LOGPROBS, "top_logprobs": 2},
        {"extra": {"stop": "a", "seed": 3, "top_k": 5, "min_p": 0.1, "ignore_eos": True}, "temperature": 1},
        {"extra": {"stop": ["lang"]}, "include": LOGPROBS},
        {"extra": {"structured_outputs": {"choice": ["yes", "no"]}}},
        {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 80},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "get_weather"}, "max_output_tokens": 80},
        {"tools": [WEATHER], "tool_choice": "required", "max_output_tokens": 9},
        {"tools": [WEATHER], "tool_choice": "none"},
        {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [WEATHER]}},
        {"text": {"format": CITY}},
        {"text": {"format": {"type": "json_object"}}, "max_output_tokens": 40},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}], "store": False},
    ],
)
def test_a_stream_adds_up_to_the_answer(responses, changes):
    whole = responses.create(**ask(**changes))
    part = final(streamed(responses, **ask(**changes)))
    assert without_ids(part.output) == without_ids(whole.output)
    assert (part.status, part.incomplete_details) == (whole.status, whole.incomplete_details)
    assert (part.usage.output_tokens, part.usage.output_tokens_details) == (
        whole.usage.output_tokens,
        whole.usage.output_tokens_details,
    )


def test_events_in_their_order(responses):
    events = list(responses.create(**ask(stream=True, max_output_tokens=3)))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert [(event.response.status, event.response.output) for event in events[:2]] == [("in_progress", [])] * 2
    added, done, last = events[2].item, events[-2].item, events[-1].response
    assert (added.status, added.content, done.status) == ("in_progress", [], "incomplete")
    assert (last.status, last.incomplete_details.reason, last.output) == ("incomplete", "max_output_tokens", [done])
    assert "".join(event.delta for event in events[4:-4]) == events[-4].text == done.content[0].text


def test_names_of_events(served):
    answer = served.post("/v1/responses", input="x", max_output_tokens=1, stream=True)
    lines = [line.split(": ", 1) for line in answer.text.splitlines() if line]
    for (name, kind), (data, event) in zip(lines[::2], lines[1::2], strict=True):
        assert (name, data, kind) == ("event", "data", json.loads(event)["type"])
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize("include", [None, LOGPROBS])
def test_thoughts_and_calls(scripted, include):
    """Told by a model that thinks, speaks and calls twice; logprobs are of what it says."""
    served = scripted(TALE)
    client = served.openai.responses
    options = ask(
        tools=[WEATHER], max_output_tokens=300, include=include or openai.omit, top_logprobs=1 if include else 0
    )
    whole, events = client.create(**options), streamed(client, **options)
    assert without_ids(final(events).output) == without_ids(whole.output)
    thoughts, message, first, second = whole.output
    assert (thoughts.type, thoughts.summary, [part.text for part in thoughts.content]) == ("reasoning", [], [THOUGHTS])
    assert message.content[0].text == "Let me look: 🎉."
    for call in first, second:
        assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Oslo"})
    assert first.call_id != second.call_id
    tokenizer = served.engine.tokenizer
    counted = whole.usage.output_tokens_details.reasoning_tokens
    assert counted == len(tokenizer.encode(THOUGHTS, add_special_tokens=False)) < whole.usage.output_tokens
    logprobs = message.content[0].logprobs
    assert b"".join(bytes(each.bytes) for each in logprobs).decode() == ("Let me look: 🎉." if include else "")
    deltas = [each for event in events if event.type == "response.output_text.delta" for each in event.logprobs]
    assert [each.token for each in deltas] == [each.token for each in logprobs]
    kinds = [event.type.removeprefix("response.") for event in events if not event.type.endswith("delta")]
    assert kinds == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done",
        *("output_item.added", "function_call_arguments.done", "output_item.done") * 2,
        "completed",
    ]  # fmt: skip
    assert {event.type for event in events if event.type.endswith("delta")} == {
        "response.reasoning_text.delta", "response.output_text.delta", "response.function_call_arguments.delta",
    }  # fmt: skip


def test_one_call_where_there_may_be_one(scripted):
    client = scripted(CALL + CALL).openai.responses
    options = ask(tools=[WEATHER], max_output_tokens=300)
    assert len(client.create(**options).output) == 2
    assert len(client.create(**options, parallel_tool_calls=False).output) == 1


def test_what_was_made_can_be_sent_back(scripted):
    """With all that the client adds to it; the chat template gets thoughts and calls as a chat's."""
    served = scripted(TALE)
    client = served.openai.responses
    options = ask(tools=[WEATHER], max_output_tokens=300)
    made = final(streamed(client, **options)).output
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        for call in made
        if call.type == "function_call"
    ]
    after = [{"role": "user", "content": "Hello, who are you?"}, *made, *results]
    client.create(**{**options, "input": after, "store": False})
    prompt = served.engine.tokenizer.decode(served.fake.seen[-1][1])
    assert prompt == f"<user>|Hello, who are you?<assistant>{THOUGHTS}|Let me look: 🎉.<tool>|rain<tool>|rain"


def test_a_conversation_goes_on(responses, served):
    first = responses.create(**ask(instructions="Be brief."))
    second = responses.create(**ask(input="And?", previous_response_id=first.id))
    third = responses.create(**ask(input=[{"role": "user", "content": "So?"}], previous_response_id=second.id))
    said = ["Hello, who are you?", first.output_text, "And?", second.output_text, "So?"]
    messages = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 3, said, strict=False)]
    chat = served.openai.chat.completions.create(model="demo", messages=messages, temperature=0, max_tokens=12)
    assert (third.output_text, third.previous_response_id) == (chat.choices[0].message.content, second.id)
    assert third.usage.input_tokens == chat.usage.prompt_tokens
    listed = responses.input_items.list(third.id).data
    assert [item.content[0].text for item in listed] == ["So?"]


def test_references_to_kept_items(responses):
    first = responses.create(**ask())
    (message,) = first.output
    (question,) = responses.input_items.list(first.id).data
    asked = {"role": "user", "content": "And?"}
    by_name = [{"type": "item_reference", "id": question.id}, {"id": message.id}, asked]
    in_full = [{"role": "user", "content": "Hello, who are you?"}, message, asked]
    assert responses.create(**ask(input=by_name)).output_text == responses.create(**ask(input=in_full)).output_text


def test_a_message_that_was_cut_off_is_continued(responses):
    whole = responses.create(**ask())
    begun = responses.create(**ask(max_output_tokens=3))
    rest = responses.create(**ask(input=[], previous_response_id=begun.id))
    assert begun.output_text + rest.output_text == whole.output_text


def test_parsed_answers(scripted):
    class Answer(pydantic.BaseModel):
        yes: bool

    client = scripted('{"yes": true}').openai.responses
    answer = client.parse(**ask(text_format=Answer, max_output_tokens=60))
    assert answer.output_parsed == Answer(yes=True)
    assert answer.text.format.name == "Answer"
    assert client.create(**ask(input=[*answer.output, {"role": "user", "content": "And?"}])).output_text


def test_effort(scripted):
    """The template's switch follows it, and the template gets it by its name."""
    template = "{% if enable_thinking %}<on>{% else %}<off>{% endif %}{{ reasoning_effort }}{{ messages[0].content }}"
    served = scripted("Well.", chat_template=template)
    for effort, prompt in (("none", "<off>noneHi"), ("high", "<on>highHi"), (None, "<off>Hi")):
        served.openai.responses.create(**ask(input="Hi", reasoning={"effort": effort, "summary": "auto"}))
        assert served.engine.tokenizer.decode(served.fake.seen[-1][1]) == prompt
    with pytest.raises(openai.BadRequestError, match="cannot turn it off"):
        scripted("Well.").openai.responses.create(**ask(reasoning={"effort": "none"}))


def test_the_oldest_turns_are_dropped_where_not_all_fit(scripted):
    served = scripted("Well.")
    client = served.openai.responses
    turns = [{"role": "developer", "content": "Obey."}]
    for number in range(40):
        turns += [{"role": "user", "content": f"{number} word word"}, {"role": "assistant", "content": "so"}]
    turns.append({"role": "user", "content": "last"})
    with pytest.raises(openai.BadRequestError) as caught:
        client.create(**ask(input=turns, truncation="disabled"))
    assert caught.value.param == "input"
    assert client.create(**ask(input=turns, truncation="auto")).truncation == "auto"
    ids = served.fake.seen[-1][1]
    prompt = served.engine.tokenizer.decode(ids)
    first = int(prompt.removeprefix("<system>|Obey.<user>|").split()[0])
    assert prompt.endswith("39 word word<assistant>|so<user>|last")
    length = len(
        served.engine.tokenizer.encode(f"<user>|{first - 1} word word<assistant>|so", add_special_tokens=False)
    )
    assert len(ids) <= served.engine.max_model_len - 12 < len(ids) + length


def test_the_request_id(responses):
    """A part of the response's id, which no other response has and which fits into a path."""
    first, second = (responses.create(**ask({"request_id": "mine/a b"})) for _ in range(2))
    assert first.id.startswith("resp_mine_a_b_")
    assert responses.retrieve(first.id) == first != second


@pytest.mark.parametrize("changes", [{}, {"instructions": "Be brief.", "tools": [WEATHER], "tool_choice": "none"}])
def test_counted_before(responses, changes):
    answer = responses.create(**ask(**changes))
    assert (
        responses.input_tokens.count(input="Hello, who are you?", **changes).input_tokens == answer.usage.input_tokens
    )
    after = responses.create(**ask(input="And?", previous_response_id=answer.id)).usage.input_tokens
    assert responses.input_tokens.count(input="And?", previous_response_id=answer.id).input_tokens == after
