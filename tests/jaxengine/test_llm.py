"""The offline API, in front of an engine without a model."""

import pytest
from fake_engine import ANSWER, FakeEngine

from jaxengine.llm import LLM
from jaxengine.request import InvalidRequest, SamplingParams


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def llm(engine):
    return LLM.from_engine(engine, chat_template="{% for m in messages %}<{{ m.content }}>{% endfor %}{{ x }}")


LONG = SamplingParams(max_tokens=None)
QUIET = {"use_tqdm": False}


def test_outputs_come_in_the_order_of_the_prompts(llm, engine):
    params = [SamplingParams(max_tokens=n) for n in (5, 1, 3)]
    outputs = llm.generate(["a", [3, 4], {"prompt": "c", "cache_salt": "s"}], params, **QUIET, priority=[2, 1, 0])
    assert [len(output.outputs[0].token_ids) for output in outputs] == [5, 1, 3]
    assert [output.prompt for output in outputs] == ["a", None, "c"]
    assert [seen[3:] for seen in engine.seen] == [(2, None), (1, None), (0, "s")]
    assert not engine.running
    assert not llm._finished


def test_one_prompt_and_its_text(llm):
    (output,) = llm.generate("a", LONG, **QUIET)
    assert output.finished
    assert output.outputs[0].text == ANSWER
    assert output.outputs[0].finish_reason == "stop"
    assert llm.generate([3, 4], LONG, **QUIET)[0].prompt_token_ids == [3, 4]
    assert llm.generate([], **QUIET) == []


def test_stop_strings_and_n(llm):
    (output,) = llm.generate("a", SamplingParams(max_tokens=None, stop=["é"], n=2), **QUIET)
    assert [completion.text for completion in output.outputs] == [" fox – ", " fox – "]


def test_defaults_are_the_models(llm, engine):
    llm.generate("a", **QUIET)
    assert engine.seen[0][2].temperature == 0.5
    assert llm.get_default_sampling_params().max_tokens == 8


def test_the_callers_params_stay_as_they_are(llm):
    params = SamplingParams(max_tokens=2)
    llm.generate(["a", "b"], params, **QUIET)
    assert params == SamplingParams(max_tokens=2)


@pytest.mark.parametrize("bad", [[], [10**6], 3.5, {"prompt": None}, "x" * 5000])
def test_a_bad_prompt_runs_nothing(llm, engine, bad):
    with pytest.raises(InvalidRequest):
        llm.generate(["a", bad, "b"], LONG, **QUIET)
    assert engine.steps == 0
    assert not engine.has_unfinished()
    assert llm.generate("a", LONG, **QUIET)[0].outputs[0].text == ANSWER


def test_wrong_numbers_of_things(llm):
    with pytest.raises(InvalidRequest, match="2 for 1 prompts"):
        llm.generate("a", [LONG, LONG])
    with pytest.raises(InvalidRequest, match="tokenization_kwargs"):
        llm.generate("a", tokenization_kwargs={"truncate": 1})


def test_an_interrupt_aborts(llm, engine, monkeypatch):
    step = engine.step

    def interrupted():
        if engine.steps == 2:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a", "b"], LONG, **QUIET)
    assert not engine.running
    monkeypatch.undo()
    assert llm.generate("a", LONG, **QUIET)[0].outputs[0].text == ANSWER


def test_lost_requests_are_an_error_not_a_hang(llm, engine, monkeypatch):
    monkeypatch.setattr(engine, "has_unfinished", lambda: False)
    with pytest.raises(RuntimeError, match="lost"):
        llm.generate("a", LONG, **QUIET)


def test_chat(llm, engine):
    chat = [{"role": "user", "content": "hi"}]
    (output,) = llm.chat(chat, LONG, **QUIET, chat_template_kwargs={"x": "!"})
    assert output.prompt == "<hi>!"
    assert len(llm.chat([chat, chat], LONG, **QUIET)) == 2
    assert llm.chat(chat, LONG, **QUIET, chat_template="T")[0].prompt == "T"
    with pytest.raises(InvalidRequest, match="list of messages"):
        llm.chat("hi")


def test_enqueue(llm):
    ids = llm.enqueue(["a", "b"], SamplingParams(max_tokens=3))
    more = llm.enqueue("c", SamplingParams(max_tokens=1))
    assert len({*ids, *more}) == 3
    assert len(llm.generate("d", SamplingParams(max_tokens=9), **QUIET)) == 1  # the others finish meanwhile
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert [output.request_id for output in outputs] == ids + more
    assert llm.wait_for_completion(use_tqdm=False) == []


def test_progress(llm, capsys):
    llm.generate("a", LONG)
    shown = capsys.readouterr().err
    assert "Processed prompts" in shown
    assert "tok/s" in shown


def test_closing(engine):
    with LLM.from_engine(engine) as llm:
        assert llm.reset_prefix_cache()
        assert llm.get_tokenizer() is engine.tokenizer
        assert any(metric.name == "vllm:generation_tokens" for metric in llm.get_metrics())
    assert engine.closed
    llm.close()
    with pytest.raises(RuntimeError, match="closed"):
        llm.generate("a")


def test_without_a_tokenizer():
    llm = LLM.from_engine(FakeEngine(tokenizer=False))
    assert len(llm.generate([3], SamplingParams(max_tokens=2), **QUIET)[0].outputs[0].token_ids) == 2
    for call in (lambda: llm.generate("a"), llm.get_tokenizer, lambda: llm.chat([{"role": "user", "content": "a"}])):
        with pytest.raises(InvalidRequest, match="needs a tokenizer"):
            call()


def test_stream(llm, engine):
    kept = llm.enqueue("x", SamplingParams(max_tokens=2))
    outputs = list(llm.stream("a", LONG))
    assert len(outputs) > 5
    assert "".join(output.outputs[0].text for output in outputs) == ANSWER
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
    assert [output.request_id for output in llm.wait_for_completion(use_tqdm=False)] == kept
    for output in llm.stream_chat([{"role": "user", "content": "hi"}], LONG, x="!"):
        assert output.prompt == "<hi>!"
        break
    assert not engine.running
