"""The offline API with the packaged model: text, stops, n, logprobs, beams, errors, and the memory after closing."""

import gc

import jax
import pytest

from jaxengine import LLM, BeamSearchParams, InvalidRequest, SamplingParams

ENGINE = {
    "max_model_len": 256,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 64,
    "dtype": "float32",
    "enforce_eager": True,  # compiles only what these tests run
    "compilation_cache_dir": "off",
    "use_tqdm_on_load": False,
}
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
PROMPT = "The capital of France is"
QUIET = {"use_tqdm": False}


@pytest.fixture(scope="module")
def llm():
    with LLM("demo", **ENGINE) as llm:
        yield llm


def greedy(llm, prompt=PROMPT, **changes):
    params = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True, **changes}
    (output,) = llm.generate(prompt, SamplingParams(**params), **QUIET)
    return output


def test_generate(llm):
    output = greedy(llm)
    (completion,) = output.outputs
    tokenizer = llm.get_tokenizer()
    assert output.prompt == PROMPT
    assert output.prompt_token_ids == tokenizer.encode(PROMPT)
    assert len(completion.token_ids) == 12
    assert completion.finish_reason == "length"
    whole = tokenizer.decode([*output.prompt_token_ids, *completion.token_ids], skip_special_tokens=True)
    assert whole == PROMPT + completion.text
    assert greedy(llm, {"prompt_token_ids": output.prompt_token_ids}).outputs[0].token_ids == completion.token_ids


def test_many_prompts_give_what_each_gives_alone(llm):
    prompts = [PROMPT, "Once", "Two plus two is", "Hello there, how are you", "x " * 50, "1, 2, 3,"]
    together = llm.generate(prompts, GREEDY, **QUIET)
    assert [output.prompt for output in together] == prompts
    for prompt, output in zip(prompts, together, strict=True):
        assert greedy(llm, prompt).outputs[0].token_ids == output.outputs[0].token_ids


def test_stop_strings(llm):
    text = greedy(llm).outputs[0].text
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    (completion,) = greedy(llm, stop=[stop, "☂"]).outputs
    assert completion.text == text[: text.index(stop)]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)
    (completion,) = greedy(llm, stop=stop, include_stop_str_in_output=True).outputs
    assert completion.text == text[: text.index(stop) + len(stop)]


def test_stop_tokens_and_min_tokens(llm):
    tokens = greedy(llm).outputs[0].token_ids
    stop = tokens[3]
    (completion,) = greedy(llm, stop_token_ids=[stop]).outputs
    assert completion.token_ids == tokens[: tokens.index(stop) + 1]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)
    (completion,) = greedy(llm, stop_token_ids=[stop], min_tokens=12).outputs
    assert len(completion.token_ids) == 12
    assert stop not in completion.token_ids[:11]


def test_several_sequences(llm):
    params = SamplingParams(n=3, temperature=1.5, seed=7, max_tokens=8, ignore_eos=True)
    first, second = (llm.generate(PROMPT, params, **QUIET)[0] for _ in range(2))
    assert [completion.index for completion in first.outputs] == [0, 1, 2]
    assert len({tuple(completion.token_ids) for completion in first.outputs}) == 3
    assert [c.token_ids for c in first.outputs] == [c.token_ids for c in second.outputs]


def test_logprobs_agree_with_prompt_logprobs(llm):
    output = greedy(llm, logprobs=3)
    (completion,) = output.outputs
    assert len(completion.logprobs) == len(completion.token_ids)
    for token, entry in zip(completion.token_ids, completion.logprobs, strict=True):
        assert len(entry) == 3
        assert next(iter(entry)) == token
        assert entry[token].rank == 1
        assert entry[token].decoded_token == llm.get_tokenizer().token_text(token)
        assert [place.rank for place in entry.values()] == [1, 2, 3]
    sampled = [entry[token].logprob for token, entry in zip(completion.token_ids, completion.logprobs, strict=True)]
    assert completion.cumulative_logprob == pytest.approx(sum(sampled))

    again = greedy(llm, [*output.prompt_token_ids, *completion.token_ids], prompt_logprobs=1, max_tokens=1)
    assert again.prompt_logprobs[0] is None
    assert len(again.prompt_logprobs) == len(again.prompt_token_ids)
    tail = again.prompt_logprobs[-len(sampled) :]
    seen = [entry[token].logprob for token, entry in zip(completion.token_ids, tail, strict=True)]
    assert seen == pytest.approx(sampled, abs=1e-3)


def test_long_prompts_are_computed_in_chunks(llm):
    tokens = list(range(300, 460))  # more than the 64 tokens of a step
    output = greedy(llm, tokens, prompt_logprobs=0)
    assert [next(iter(entry)) for entry in output.prompt_logprobs[1:]] == tokens[1:]
    assert greedy(llm, tokens).outputs[0].token_ids == output.outputs[0].token_ids


def test_the_prefix_cache_changes_nothing(llm):
    tokens = list(range(500, 560))
    assert llm.reset_prefix_cache()
    first, second = greedy(llm, tokens), greedy(llm, tokens)
    assert first.num_cached_tokens == 0
    assert second.num_cached_tokens == 48  # three pages of 16; the last token is always computed
    assert first.outputs[0].token_ids == second.outputs[0].token_ids


def test_beam_search(llm):
    (narrow,) = llm.beam_search(PROMPT, BeamSearchParams(beam_width=1, max_tokens=6, ignore_eos=True))
    output = greedy(llm, max_tokens=6, logprobs=0)
    assert narrow.sequences[0].tokens == [*output.prompt_token_ids, *output.outputs[0].token_ids]
    assert narrow.sequences[0].cum_logprob == pytest.approx(output.outputs[0].cumulative_logprob, abs=1e-3)
    (wide,) = llm.beam_search(PROMPT, BeamSearchParams(beam_width=4, max_tokens=6, ignore_eos=True))
    scores = [beam.cum_logprob for beam in wide.sequences]
    assert scores == sorted(scores, reverse=True)
    assert len({tuple(beam.tokens) for beam in wide.sequences}) == 4
    assert wide.sequences[0].text.startswith(PROMPT)


def test_chat_and_stream(llm):
    chat = [{"role": "user", "content": "Hello!"}]
    (output,) = llm.chat(chat, GREEDY, **QUIET)
    assert "Hello!" in output.prompt
    deltas = list(llm.stream_chat(chat, GREEDY))
    assert "".join(delta.outputs[0].text for delta in deltas) == output.outputs[0].text
    assert len(deltas) == 12
    next(stream := llm.stream(PROMPT, GREEDY))
    stream.close()
    assert not llm.engine.has_unfinished()


@pytest.mark.parametrize(
    ("prompt", "changes", "field"),
    [
        ([], {}, "prompt_token_ids"),
        ([10**6], {}, "prompt_token_ids"),
        ("word " * 400, {}, "prompt_token_ids"),
        (PROMPT, {"logprobs": 21}, "logprobs"),
        (PROMPT, {"stop_token_ids": [10**6]}, "stop_token_ids"),
    ],
)
def test_errors_leave_the_engine_usable(llm, prompt, changes, field):
    expected = greedy(llm).outputs[0].token_ids
    with pytest.raises(InvalidRequest) as caught:
        llm.generate([PROMPT, prompt], GREEDY.clone(**changes), **QUIET)
    assert caught.value.field == field
    assert not llm.engine.has_unfinished()
    assert greedy(llm).outputs[0].token_ids == expected


def test_metrics(llm):
    before = {metric.name: metric for metric in llm.get_metrics()}["vllm:generation_tokens"].value
    greedy(llm)
    metrics = {metric.name: metric for metric in llm.get_metrics()}
    assert metrics["vllm:generation_tokens"].value == before + 12
    assert metrics["vllm:num_requests_running"].value == 0
    assert metrics["vllm:time_to_first_token_seconds"].count > 0
    assert metrics["vllm:prefix_cache_hits"].value > 0


def test_closing_frees_the_memory():
    gc.collect()
    before = sum(array.nbytes for array in jax.live_arrays())
    with LLM("demo", **ENGINE) as llm:
        greedy(llm, max_tokens=1)
        assert sum(array.nbytes for array in jax.live_arrays()) > before + 1e6
    gc.collect()
    assert sum(array.nbytes for array in jax.live_arrays()) <= before + 1e5
    with pytest.raises(RuntimeError, match="closed"):
        llm.generate(PROMPT)
