"""/v1/chat/completions through the openai package: answers and streams, templates, tool calls, reasoning, refusals."""

import json

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Hello, who are you?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def chat(served, messages=MESSAGES, **changes):
    options = {"model": "demo", "temperature": 0, "max_tokens": 12, **changes}
    extra = options.pop("extra", {})
    return served.openai.chat.completions.create(messages=messages, **options, extra_body=extra)


def streamed(served, **changes):
    """Message by message, what a stream adds up to."""
    messages = {}
    for chunk in chat(served, stream=True, **changes):
        for choice in chunk.choices:
            message = messages.setdefault(choice.index, {"content": "", "calls": {}, "tokens": [], "role": None})
            message["role"] = message["role"] or choice.delta.role
            message["content"] += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                known = message["calls"].setdefault(call.index, {"arguments": ""})
                known["name"] = known.get("name") or call.function.name
                known["id"] = known.get("id") or call.id
                known["arguments"] += call.function.arguments or ""
            message["tokens"] += [each.token for each in choice.logprobs.content] if choice.logprobs else []
            message["finish"] = choice.finish_reason
    return [messages[index] for index in sorted(messages)]


def test_an_answer(served):
    answer = chat(served)
    (choice,) = answer.choices
    tokenizer = served.engine.tokenizer
    prompt = tokenizer.render_chat(MESSAGES)
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.message.tool_calls is None
    assert answer.usage.prompt_tokens == len(tokenizer.encode(prompt, add_special_tokens=False))
    raw = served.post("/v1/completions", prompt=prompt, add_special_tokens=False, max_tokens=12, temperature=0).json()
    assert raw["choices"][0]["text"] == choice.message.content


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n": 3, "temperature": 1, "seed": 3},
        {"logprobs": True, "top_logprobs": 2},
        {"stop": "a"},
        {"max_completion_tokens": 3, "max_tokens": None},
        {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 80},
        {
            "tools": [WEATHER],
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
            "max_tokens": 80,
        },
        {"tools": [WEATHER], "tool_choice": "none"},
        {"tools": [WEATHER], "max_tokens": 60},
        {"response_format": {"type": "json_object"}, "max_tokens": 60},
    ],
)
def test_a_stream_adds_up_to_the_answer(served, changes):
    whole, parts = chat(served, **changes), streamed(served, **changes)
    for choice, part in zip(whole.choices, parts, strict=True):
        assert (part["role"], part["finish"]) == ("assistant", choice.finish_reason)
        assert part["content"] == (choice.message.content or "")
        calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
        assert [(call["name"], call["arguments"]) for call in part["calls"].values()] == calls
        assert all(call["id"].startswith("call_") for call in part["calls"].values())
        if choice.logprobs is not None:
            assert part["tokens"] == [each.token for each in choice.logprobs.content]


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_calls_that_must_be_made(served, choice):
    answer = chat(served, tools=[WEATHER], tool_choice=choice, max_tokens=100, parallel_tool_calls=False)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments).keys() == {"city"}
    assert answer.choices[0].finish_reason == "tool_calls"
    after = [
        *MESSAGES,
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    assert chat(served, after, tools=[WEATHER], tool_choice="none").choices[0].message.content is not None


def test_logprobs(served):
    (choice,) = chat(served, logprobs=True, top_logprobs=3, max_tokens=4).choices
    assert len(choice.logprobs.content) == 4
    for place in choice.logprobs.content:
        assert bytes(place.bytes).decode() == place.token
        assert [top.logprob for top in place.top_logprobs] == sorted(
            (t.logprob for t in place.top_logprobs), reverse=True
        )
        assert (place.top_logprobs[0].token, len(place.top_logprobs)) == (place.token, 3)


def test_parts_roles_and_templates(served):
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello, who are you?"}]}]
    assert chat(served, parts).choices[0].message.content == chat(served).choices[0].message.content
    ask = {"extra": {"return_prompt_text": True}, "max_tokens": 1}
    assert (
        "<|im_start|>system\nBe brief"
        in chat(served, [{"role": "developer", "content": "Be brief"}, *MESSAGES], **ask).model_extra["prompt_text"]
    )
    started = [*MESSAGES, {"role": "assistant", "content": "I am"}]
    answer = chat(served, started, extra={"continue_final_message": True, "return_prompt_text": True, "echo": True})
    assert answer.model_extra["prompt_text"].endswith("assistant\nI am")
    assert answer.choices[0].message.content.startswith("I am")


def test_the_context_is_filled_unless_told_otherwise(served):
    answer = chat(served, max_tokens=None, extra={"ignore_eos": True})
    assert (answer.usage.total_tokens, answer.choices[0].finish_reason) == (256, "length")


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"messages": []}, "messages", "empty"),
        ({"messages": [{"content": "x"}]}, "messages", "no role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages", "content 5"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "'image_url'"),
        ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "messages", "no tool call"),
        ({"max_completion_tokens": 3}, "max_tokens", "differs"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs=true"),
        ({"extra": {"chat_template": "x"}}, "chat_template", "takes none"),
        ({"extra": {"chat_template_kwargs": {"messages": 1}}}, "chat_template_kwargs", "field of that name"),
        ({"extra": {"add_generation_prompt": True, "continue_final_message": True}}, "continue_final_message", "both"),
        ({"extra": {"functions": [{}]}}, "functions", "use tools"),
        ({"extra": {"modalities": ["audio"]}}, "modalities", "only text"),
        ({"extra": {"thinking_token_budget": 5}}, "thinking_token_budget", "max_tokens"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": [{"type": "web_search"}]}, "tools", "tool 0"),
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice", "sometimes"),
        ({"response_format": {"type": "yaml"}}, "response_format", "json_schema"),
    ],
)
def test_refusals(served, changes, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(served, **changes)
    assert caught.value.param == param
    assert message in caught.value.message


def test_beam_search(served):
    choices = chat(served, n=2, extra={"use_beam_search": True}).choices
    assert (len(choices), choices[0].message.content != choices[1].message.content) == (2, True)
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        chat(served, tools=[WEATHER], tool_choice="required", extra={"use_beam_search": True})


def test_reasoning(serve):
    """The demo model does not think: what it is told to continue is its thought."""
    served = serve(reasoning_parser="qwen3")
    started = [*MESSAGES, {"role": "assistant", "content": "<think>I"}]
    options = {"extra": {"continue_final_message": True, "logit_bias": {}}, "max_tokens": 6}
    message = chat(served, started, **options).choices[0].message
    assert (message.model_extra["reasoning"].strip() != "", message.content) == (True, None)
    hidden = chat(served, started, max_tokens=6, extra={"continue_final_message": True, "include_reasoning": False})
    assert "reasoning" not in (hidden.choices[0].message.model_extra or {})


def test_template_of_the_server(serve):
    served = serve(
        chat_template="{{ greeting }} {{ messages[0].content }}", default_chat_template_kwargs={"greeting": "Hi"}
    )
    answer = chat(served, extra={"return_prompt_text": True}, max_tokens=1)
    assert answer.model_extra["prompt_text"] == "Hi Hello, who are you?"
    kwargs = {"chat_template_kwargs": {"greeting": "Ho"}, "return_prompt_text": True}
    assert chat(served, extra=kwargs, max_tokens=1).model_extra["prompt_text"].startswith("Ho ")
    with pytest.raises(openai.BadRequestError, match="tool-call-parser"):
        chat(served, tools=[WEATHER])
