"""From sampled tokens to what callers get: kinds of output, n, logprobs, stop strings, times."""

import numpy as np
import pytest
import tiny_tokenizers

from jaxengine.metrics import Metrics
from jaxengine.outputs import OutputProcessor
from jaxengine.plan import Sampled, TokenLogprobs
from jaxengine.request import RequestOutputKind, SamplingParams, make_requests

TOKENIZER = tiny_tokenizers.make()
PROMPT = TOKENIZER.encode("the")


class Case:
    """One request, fed by hand."""

    def __init__(self, tokenizer=TOKENIZER, **params):
        self.metrics = Metrics()
        self.processor = OutputProcessor(tokenizer, self.metrics)
        params = SamplingParams(**{"max_tokens": None, **params})
        self.requests = make_requests("r", PROMPT, params)
        self.processor.add("r", "the", PROMPT, params, arrival_time=0.0)

    def step(self, *tokens, **fields):
        """One token for each of the first sequences; None leaves one out. Returns (output or None, stopped)."""
        updates = [
            Sampled(request, token, **fields)
            for request, token in zip(self.requests, tokens, strict=False)
            if token is not None
        ]
        outputs, stopped = self.processor.process(updates)
        assert len(outputs) <= 1
        return (outputs[0] if outputs else None), stopped


IDS = TOKENIZER.encode(" fox – é stop", add_special_tokens=False)
TEXT = " fox – é stop"


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_kinds(kind):
    case = Case(output_kind=kind)
    outputs = [case.step(token)[0] for token in IDS[:-1]]
    outputs.append(case.step(IDS[-1], finish_reason="length")[0])
    last = outputs[-1].outputs[0]
    assert outputs[-1].finished
    assert (last.finish_reason, last.stop_reason, last.index) == ("length", None, 0)
    if kind is RequestOutputKind.FINAL_ONLY:
        assert outputs[:-1] == [None] * (len(IDS) - 1)
    if kind is RequestOutputKind.DELTA:
        assert "".join(output.outputs[0].text for output in outputs) == TEXT
        assert [token for output in outputs for token in output.outputs[0].token_ids] == IDS
    else:
        assert (last.text, last.token_ids) == (TEXT, IDS)
    if kind is RequestOutputKind.CUMULATIVE:
        for number, output in enumerate(outputs, 1):
            assert output.outputs[0].token_ids == IDS[:number]  # earlier outputs stay as they were
            assert TEXT.startswith(output.outputs[0].text)
    assert (outputs[-1].request_id, outputs[-1].prompt, outputs[-1].prompt_token_ids) == ("r", "the", PROMPT)
    assert "r" not in case.processor
    assert len(case.processor) == 0


def test_without_text():
    for case in (Case(detokenize=False), Case(tokenizer=None, logprobs=1)):
        row = TokenLogprobs(np.array([5, 6]), np.array([-1.0, -0.5]), 2)
        output, _ = case.step(5, logprobs=row)
        assert output.outputs[0].text == ""
        assert output.outputs[0].token_ids == [5]
    assert output.outputs[0].logprobs[0][6].decoded_token is None


def test_stop_token_is_counted_and_hidden():
    end = TOKENIZER.eos_token_id
    for include, skip, text in [(False, False, " a"), (True, False, " a<|im_end|>"), (True, True, " a")]:
        case = Case(include_stop_str_in_output=include, skip_special_tokens=skip)
        for token in TOKENIZER.encode(" a", add_special_tokens=False):
            case.step(token)
        output, _ = case.step(end, finish_reason="stop", stop_reason=end)
        completion = output.outputs[0]
        assert (completion.text, completion.token_ids[-1]) == (text, end)
        assert (completion.finish_reason, completion.stop_reason) == ("stop", end)


@pytest.mark.parametrize("kind", RequestOutputKind)
@pytest.mark.parametrize("include", [True, False])
def test_stop_string_across_tokens(kind, include):
    case = Case(stop=["x –", "zzz"], output_kind=kind, include_stop_str_in_output=include)
    texts, ended = [], []
    for token in IDS:
        output, stopped = case.step(token)
        ended += stopped
        if output:
            texts.append(output.outputs[0].text)
        if stopped:
            break
    expected = " fox –" if include else " fo"
    assert ("".join(texts) if kind is RequestOutputKind.DELTA else texts[-1]) == expected
    assert ended == [(case.requests[0], "x –")]
    assert output.finished
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", "x –")
    assert case.step(IDS[0]) == (None, [])  # the token that was in flight


def test_stop_string_wins_over_length():
    case = Case(stop=["stop"])
    for token in IDS[:-1]:
        output, stopped = case.step(token)
    assert not stopped
    output, stopped = case.step(IDS[-1], finish_reason="length")
    assert stopped == []  # the scheduler has ended it already
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", "stop")


def test_held_text_comes_out_at_the_end():
    case = Case(stop=[" fox!"], output_kind=RequestOutputKind.DELTA)
    ids = TOKENIZER.encode(" fox", False)
    shown = [case.step(token)[0].outputs[0].text for token in ids[:-1]]
    assert shown == [""] * (len(ids) - 1)
    assert case.step(ids[-1], finish_reason="length")[0].outputs[0].text == " fox"


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_several_sequences_are_one_request(kind):
    case = Case(n=3, output_kind=kind)
    a, b, c = IDS[:3]
    first, _ = case.step(a, b, c)
    second, _ = case.step(b, None, None, finish_reason="length")
    third, _ = case.step(None, c, None, finish_reason="stop")
    fourth, _ = case.step(None, None, a, finish_reason="length")
    assert fourth.finished
    if kind is RequestOutputKind.FINAL_ONLY:
        assert first is second is third is None
    else:
        assert not first.finished
        assert not third.finished
        assert [completion.index for completion in first.outputs] == [0, 1, 2]
    if kind is RequestOutputKind.DELTA:
        assert [completion.index for completion in second.outputs] == [0]
        assert [completion.token_ids for completion in fourth.outputs] == [[a]]
    else:
        assert [list(completion.token_ids) for completion in fourth.outputs] == [[a, b], [b, c], [c, a]]
        assert [completion.finish_reason for completion in fourth.outputs] == ["length", "stop", "length"]


def test_logprobs():
    case = Case(logprobs=2, prompt_logprobs=1, output_kind=RequestOutputKind.DELTA)
    row = TokenLogprobs(np.array([7, 9, 7, 8]), np.array([-1.5, -0.5, -1.5, -3.0]), 2)
    prompt_rows = [TokenLogprobs(np.array([token, 3]), np.array([-2.0, -1.0]), 5) for token in PROMPT[1:]]
    first, _ = case.step(7, logprobs=row, prompt_logprobs=prompt_rows)
    second, _ = case.step(7, logprobs=row, finish_reason="length")
    (entry,) = first.outputs[0].logprobs
    assert list(entry) == [7, 9]  # the token first; only the two most likely that were asked for
    assert (entry[7].logprob, entry[7].rank, entry[7].decoded_token) == (-1.5, 2, TOKENIZER.token_text(7))
    assert (entry[9].logprob, entry[9].rank) == (-0.5, 1)
    assert second.outputs[0].cumulative_logprob == -3.0
    assert len(second.outputs[0].logprobs) == 1
    assert first.prompt_logprobs[0] is None
    assert [list(entry) for entry in first.prompt_logprobs[1:]] == [[token, 3] for token in PROMPT[1:]]
    assert second.prompt_logprobs is None  # a delta brings it once
    none, _ = Case().step(7)
    assert none.outputs[0].logprobs is none.outputs[0].cumulative_logprob is None


def test_sampled_logprob_only_and_all():
    row = TokenLogprobs(np.array([7, 9, 7, 8]), np.array([-1.5, -0.5, -1.5, -3.0]), 2)
    assert list(Case(logprobs=0).step(7, logprobs=row)[0].outputs[0].logprobs[0]) == [7]
    assert list(Case(logprobs=-1).step(7, logprobs=row)[0].outputs[0].logprobs[0]) == [7, 9, 8]


def test_several_tokens_of_one_step_are_one_output():
    case = Case(output_kind=RequestOutputKind.DELTA)
    outputs, _ = case.processor.process([Sampled(case.requests[0], token) for token in IDS[:3]])
    assert [output.outputs[0].token_ids for output in outputs] == [IDS[:3]]


def test_abort():
    case = Case(stop=[" fox!"], n=2, output_kind=RequestOutputKind.FINAL_ONLY)
    case.step(IDS[0], IDS[0])
    case.step(None, IDS[1], finish_reason="length")
    output = case.processor.abort("r")
    assert output.finished
    assert [completion.finish_reason for completion in output.outputs] == ["abort", "length"]
    assert case.processor.abort("r") is None
    delta = Case(output_kind=RequestOutputKind.DELTA)
    delta.step(IDS[0])
    (completion,) = delta.processor.abort("r").outputs
    assert (completion.text, completion.token_ids, completion.finish_reason) == ("", [], "abort")
    assert case.step(IDS[0]) == (None, [])


def test_times_and_counts(monkeypatch):
    clock = iter([2.0, 2.5, 4.0])
    monkeypatch.setattr("jaxengine.outputs.time.time", lambda: next(clock))
    case = Case(max_tokens=3)
    case.requests[0].num_cached_tokens = 1
    case.requests[0].scheduled_time = 1.0
    case.step(IDS[0])
    case.step(IDS[1])
    output, _ = case.step(IDS[2], finish_reason="length")
    times = output.metrics
    assert (times.arrival_time, times.first_scheduled_time, times.first_token_time) == (0.0, 1.0, 2.0)
    assert (times.last_token_time, times.finished_time, times.num_generation_tokens) == (4.0, 4.0, 3)
    assert output.num_cached_tokens == 1
    metrics = case.metrics
    sums = {
        "time_to_first_token": 2.0,
        "inter_token_latency": 2.0,
        "time_per_output_token": 1.0,
        "e2e_latency": 4.0,
        "queue_time": 1.0,
        "prefill_time": 1.0,
        "decode_time": 2.0,
        "inference_time": 3.0,
        "request_generation_tokens": 3,
        "request_max_tokens": 3,
        "request_prefill_computed_tokens": len(PROMPT) - 1,
    }
    assert {name: getattr(metrics, name).sum for name in sums} == sums
    assert metrics.inter_token_latency.count == 2
    assert metrics.generation_tokens.value == 3
    assert metrics.request_success["length"].value == 1
