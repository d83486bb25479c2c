"""`jaxengine chat`: history, commands, errors, one-shot."""

from fake_engine import ANSWER


def prompts(built):
    fake = built[0][1]
    return [fake.tokenizer.decode(seen[1]) for seen in fake.seen]


def test_a_conversation(invoke, built):
    lines = ["hi", "", "/system S", "more", "/reset", "again", "/what", "/exit", "never"]
    result = invoke("chat", "m", "--system-prompt", "P", input="\n".join(lines))
    assert result.exit_code == 0, result.output
    assert prompts(built) == ["<P><hi>", f"<S><hi><{ANSWER}><more>", "<S><again>"]
    assert result.output.count(ANSWER) == 3
    assert "tok/s" in result.output
    assert result.output.count("/reset forgets") == 2
    assert built[0][1].closed


def test_end_of_input(invoke, built):
    assert invoke("chat", "m", input="hi\n").exit_code == 0
    assert prompts(built) == ["<hi>"]


def test_a_message_that_is_too_long_does_not_end_it(invoke, built):
    result = invoke("chat", "m", input="x" * 2000 + "\nhi\n")
    assert result.exit_code == 0
    assert "context length" in result.output.replace("\n", " ")
    assert prompts(built) == ["<hi>"]


def test_quick(invoke, built):
    result = invoke("chat", "m", "-q", "hi", "--max-tokens", 2)
    assert result.exit_code == 0
    assert prompts(built) == ["<hi>"]
    assert "2 tokens" in result.output
