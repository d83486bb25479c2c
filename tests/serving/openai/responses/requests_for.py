"""What these tests ask servers."""

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather somewhere.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
LOGPROBS = ["message.output_text.logprobs"]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
THOUGHTS = "The user wants to know – é."
TALE = f"<think>\n{THOUGHTS}\n</think>\n\nLet me look: 🎉.\n{CALL}\n{CALL}"


def ask(extra=None, **changes):
    """`extra`: fields that the client does not have."""
    asked = {"model": "demo", "input": "Hello, who are you?", "max_output_tokens": 12, "temperature": 0, **changes}
    return {**asked, "extra_body": extra or {}}


def without_ids(output):
    """And without what the client adds."""
    made = [item.model_dump(exclude={"id", "call_id", "parsed_arguments"}) for item in output]
    for item in made:
        for part in item.get("content") or ():
            part.pop("parsed", None)
    return made
