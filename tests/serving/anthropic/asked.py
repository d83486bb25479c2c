"""What these tests ask servers."""

MESSAGES = [{"role": "user", "content": "Hello, who are you?"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather somewhere.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "rain"}]}


def ask(extra=None, **changes):
    """`extra`: fields that not every version of the client has."""
    extra = {"temperature": 0, **(extra or {})}
    return {"model": "demo", "max_tokens": 12, "messages": MESSAGES, "extra_body": extra, **changes}
