"""/v1/completions through the openai package: answers, streams that add up to them, usage, refusals."""

import openai
import pytest

PROMPT = "The capital of France is"
GREEDY = {"model": "demo", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}


def complete(served, **changes):
    extra = changes.pop("extra", {})
    return served.openai.completions.create(**{**GREEDY, **changes}, extra_body=extra)


def streamed(served, **changes):
    """The choices that a stream adds up to, and its usage."""
    choices, usage = {}, None
    options = {"stream_options": {"include_usage": True}, **changes}
    for chunk in complete(served, stream=True, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            known = choices.setdefault(
                choice.index, {"text": "", "ids": [], "logprobs": [], "tokens": [], "offsets": []}
            )
            known["text"] += choice.text
            known["ids"] += getattr(choice, "token_ids", None) or []
            if choice.logprobs is not None:
                known["logprobs"] += choice.logprobs.token_logprobs
                known["tokens"] += choice.logprobs.tokens
                known["offsets"] += choice.logprobs.text_offset
            known["finish"] = choice.finish_reason
            known["prompt_ids"] = known.get("prompt_ids") or getattr(choice, "prompt_token_ids", None)
            known["prompt_logprobs"] = known.get("prompt_logprobs") or getattr(choice, "prompt_logprobs", None)
    return [choices[index] for index in sorted(choices)], usage


def test_an_answer(served):
    answer = complete(served)
    (choice,) = answer.choices
    assert choice.text.startswith(" Paris")
    assert (choice.finish_reason, choice.logprobs) == ("length", None)
    tokenizer = served.engine.tokenizer
    assert answer.usage.prompt_tokens == len(tokenizer.encode(PROMPT))
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert answer.id.startswith("cmpl-")
    assert answer.model == "demo"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 1, "seed": 7, "n": 3},
        {"stop": [" the", "of"], "max_tokens": 30},
        {"logprobs": 2, "extra": {"return_token_ids": True}},
        {"logprobs": 1, "echo": True},
        {"logprobs": 1, "echo": True, "n": 2, "temperature": 1, "seed": 1},
        {"prompt": [PROMPT, "Once upon a time", "x"], "echo": True},
        {"prompt": [[431, 427, 343], [2720, 321]], "max_tokens": 4},
        {"extra": {"prompt_logprobs": 1, "return_token_ids": True, "return_tokens_as_token_ids": True}, "logprobs": 1},
        {"logit_bias": {"505": -100}, "frequency_penalty": 0.5},
        {"extra": {"min_tokens": 4, "ignore_eos": True, "bad_words": [" Paris"], "top_k": 5, "min_p": 0.01}},
    ],
)
def test_a_stream_adds_up_to_the_answer(served, changes):
    whole, (parts, usage) = complete(served, **dict(changes)), streamed(served, **dict(changes))
    assert [choice.index for choice in whole.choices] == list(range(len(parts)))
    for choice, part in zip(whole.choices, parts, strict=True):
        assert (part["text"], part["finish"]) == (choice.text, choice.finish_reason)
        if choice.logprobs is not None:
            assert part["tokens"] == choice.logprobs.tokens
            assert part["offsets"] == choice.logprobs.text_offset
            assert part["logprobs"] == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4, nan_ok=True)
        assert part["ids"] == (getattr(choice, "token_ids", None) or [])
        assert part["prompt_ids"] == getattr(choice, "prompt_token_ids", None)
        assert bool(part["prompt_logprobs"]) == bool(getattr(choice, "prompt_logprobs", None))
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_echo_scores_a_prompt(served):
    answer = complete(served, max_tokens=0, echo=True, logprobs=1)
    (choice,) = answer.choices
    assert choice.text == PROMPT
    assert "".join(choice.logprobs.tokens) == PROMPT
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    assert answer.usage.completion_tokens == 0
    longer = complete(served, echo=True, logprobs=1).choices[0].logprobs
    assert longer.token_logprobs[1:5] == pytest.approx(choice.logprobs.token_logprobs[1:5], abs=1e-4)
    assert "".join(longer.tokens) == complete(served, echo=True).choices[0].text


def test_token_ids_in_and_out(served):
    ids = served.engine.tokenizer.encode(PROMPT)
    (choice,) = complete(served, prompt=ids, extra={"return_token_ids": True, "return_prompt_text": True}).choices
    assert (choice.prompt_token_ids, choice.prompt_text) == (ids, PROMPT)
    assert choice.text == complete(served).choices[0].text
    assert served.engine.tokenizer.decode(choice.token_ids) == choice.text


def test_cached_tokens_are_counted(served):
    prompt = "A sentence that nobody else has asked for, long enough for several pages of sixteen tokens each, I hope."
    first, second = (complete(served, prompt=prompt).usage.prompt_tokens_details.cached_tokens for _ in range(2))
    assert (first, second > 0) == (0, True)
    salted = complete(served, prompt=prompt, extra={"cache_salt": "mine"}).usage.prompt_tokens_details.cached_tokens
    assert salted == 0


@pytest.mark.parametrize(("side", "kept"), [("left", slice(-3, None)), ("right", slice(0, 3))])
def test_truncation(served, side, kept):
    ids = served.engine.tokenizer.encode(PROMPT)
    extra = {"truncate_prompt_tokens": 3, "truncation_side": side, "return_token_ids": True}
    assert complete(served, extra=extra).choices[0].prompt_token_ids == ids[kept]
    long = complete(served, prompt=ids * 80, max_tokens=6, extra={"truncate_prompt_tokens": -1})
    assert long.usage.prompt_tokens == 250


def test_usage_in_every_chunk(served):
    options = {"continuous_usage_stats": True, "include_usage": True}
    chunks = list(complete(served, stream=True, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[-1], chunks[-1].choices) == (8, [])
    assert all(chunk.usage is None for chunk in complete(served, stream=True))


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"extra": {"max_token": 3}}, "max_token", "did you mean max_tokens"),
        ({"extra": {"frobnicate": 3}}, "frobnicate", "no such field"),
        ({"suffix": "!"}, "suffix", "not supported"),
        ({"best_of": 3}, "best_of", "use n"),
        ({"extra": {"length_penalty": 2}}, "length_penalty", "use_beam_search"),
        ({"extra": {"use_beam_search": True, "top_k": 3}}, "top_k", "beam search"),
        ({"extra": {"use_beam_search": True}, "logprobs": 1}, "logprobs", "beam search"),
        ({"extra": {"guided_json": {}}}, "guided_json", "structured_outputs"),
        ({"temperature": -1}, "temperature", "at least 0"),
        ({"top_p": 1.5}, "top_p", "at most 1"),
        ({"n": 2}, "n", "greedy"),
        ({"n": 5000, "temperature": 1}, "n", "at most 2048"),
        ({"max_tokens": "x"}, "max_tokens", "Expected `int | null`"),
        ({"max_tokens": 0}, "max_tokens", "echo"),
        ({"logprobs": 999}, "logprobs", "allowed"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": ["a", 1]}, "prompt", "mixes"),
        ({"prompt": ""}, "prompt_token_ids", "empty"),
        ({"prompt": [10**9]}, "prompt_token_ids", "vocabulary"),
        ({"prompt": "x " * 2000}, "prompt_token_ids", "context length"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "not a token id"),
        ({"stop": ""}, "stop", "non-empty"),
        ({"extra": {"priority": 1}}, "priority", "first come"),
        ({"extra": {"cache_salt": ""}}, "cache_salt", "non-empty"),
        ({"extra": {"stream_options": {"include_usage": True}}}, "stream_options", "no stream"),
        ({"extra": {"truncate_prompt_tokens": 0}}, "truncate_prompt_tokens", "at least 1"),
        ({"extra": {"structured_outputs": {"regex": "a", "choice": ["b"]}}}, "structured_outputs", "together"),
        ({"extra": {"response_format": {"type": "json_schema"}}}, "response_format", "no schema"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(served, changes, param, message, stream):
    if stream and (param == "stream_options" or "use_beam_search" in changes.get("extra", {})):
        return
    with pytest.raises(openai.BadRequestError) as caught:
        complete(served, **({"stream": True} if stream else {}), **{**changes, "extra": {**changes.get("extra", {})}})
    assert caught.value.param == param
    assert message in caught.value.message
    assert caught.value.body["type"] == "BadRequestError"


def test_neutral_values_of_what_is_not_served_pass(served):
    neutral = {"use_beam_search": False, "mm_processor_kwargs": None, "guided_json": None, "length_penalty": 1.0}
    assert complete(served, extra=neutral, suffix=None, best_of=1).choices[0].text == complete(served).choices[0].text


def test_beam_search(served):
    def answer(width, **extra):
        extra = {"use_beam_search": True, "ignore_eos": True, **extra}
        return complete(served, n=width, max_tokens=6, extra=extra).choices

    best, second = answer(2)
    assert (best.index, best.finish_reason, second.index) == (0, "length", 1)
    assert best.text != second.text
    assert answer(1)[0].text == complete(served, max_tokens=6, extra={"ignore_eos": True}).choices[0].text
    echoed = answer(2, echo=True, return_token_ids=True)[0]
    assert (echoed.text, echoed.prompt_token_ids) == (PROMPT + best.text, served.engine.tokenizer.encode(PROMPT))
    assert served.server.admission.counts.own == 0
    with pytest.raises(openai.BadRequestError, match="stream"):
        complete(served, stream=True, extra={"use_beam_search": True})
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        answer(11)


def test_structured_outputs(served):
    answer = complete(served, extra={"structured_outputs": {"choice": ["yes", "no"]}}, max_tokens=20)
    assert answer.choices[0].text in ("yes", "no")
    conflict = {"structured_outputs": {"json_object": True}, "allowed_token_ids": [5]}
    with pytest.raises(openai.BadRequestError, match="allowed_token_ids"):
        complete(served, extra=conflict)


def test_unknown_models(served):
    with pytest.raises(openai.NotFoundError, match="The model `gpt-9` does not exist"):
        complete(served, model="gpt-9")
