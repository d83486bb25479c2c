"""LangChain's ChatOpenAI against our server, as its users call it."""

from __future__ import annotations

import functools
import operator
from typing import Any

import pytest

langchain_openai = pytest.importorskip("langchain_openai", reason="no langchain-openai")

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def chat(served: Any) -> Any:
    return langchain_openai.ChatOpenAI(
        model="demo", base_url=f"{served.url}/v1", api_key="none", temperature=0, max_tokens=60, max_retries=0
    )


def test_an_answer_and_the_same_streamed(chat: Any) -> None:
    question = "What is the capital of France?"
    answer = chat.invoke(question)
    assert "Paris" in answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in chat.stream(question)) == answer.content


def test_a_tool_that_must_be_called(chat: Any) -> None:
    answer = chat.bind_tools([WEATHER], tool_choice="weather").invoke("How is the weather in Rome?")
    (call,) = answer.tool_calls
    assert call["name"] == "weather"
    assert isinstance(call["args"]["city"], str)


def test_structured_output(chat: Any) -> None:
    schema = {"title": "Place", **WEATHER["function"]["parameters"]}
    found = chat.with_structured_output(schema, method="json_schema").invoke("Where is the Colosseum?")
    assert set(found) == {"city"}


def test_over_responses(served: Any) -> None:
    """Answers, streams, calls and forms the other way, with the conversation kept by the server."""
    chat = langchain_openai.ChatOpenAI(
        model="demo", base_url=f"{served.url}/v1", api_key="none", temperature=0, max_tokens=60, max_retries=0,
        use_responses_api=True, use_previous_response_id=True, include=["reasoning.encrypted_content"],
    )  # fmt: skip
    question = ("user", "What is the capital of France?")
    answer = chat.invoke([question])
    assert "Paris" in answer.text
    assert answer.usage_metadata["output_tokens"] > 0
    assert functools.reduce(operator.add, chat.stream([question])).text == answer.text
    assert chat.invoke([question, answer, ("user", "And?")]).text
    (call,) = chat.bind_tools([WEATHER], tool_choice="weather").invoke("How is the weather in Rome?").tool_calls
    assert (call["name"], type(call["args"]["city"])) == ("weather", str)
    schema = {"title": "Place", **WEATHER["function"]["parameters"]}
    assert set(chat.with_structured_output(schema, method="json_schema").invoke("Where is it?")) == {"city"}
