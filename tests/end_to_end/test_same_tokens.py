"""A greedy or seeded request: the same tokens alone, in a crowd, chunked, preempted, cached and on several devices."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from jaxengine import LLM, SamplingParams
from pallas_kernels.cpu import build as cpu_build

Make = Callable[..., LLM]
EVERYTHING = {"top_k": 40, "top_p": 0.95, "min_p": 0.01, "presence_penalty": 0.3, "repetition_penalty": 1.2}


def prompts(count: int, longest: int = 60) -> list[list[int]]:
    source = random.Random(0)
    return [[source.randrange(250) for _ in range(source.randrange(1, longest))] for _ in range(count)]


def params(index: int) -> SamplingParams:
    """Greedy, seeded and everything-on requests in turn."""
    common = {"max_tokens": 12 + index % 5, "ignore_eos": True}
    kinds = (
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": index},
        {"temperature": 0.9, "seed": index} | EVERYTHING,
    )
    return SamplingParams(**common, **kinds[index % 3])


PROMPTS = prompts(14)
PARAMS = [params(i) for i in range(len(PROMPTS))]


def tokens(llm: LLM) -> list[list[int]]:
    outputs = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], PARAMS, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.fixture(scope="module")
def alone(make_llm: Make) -> list[list[int]]:
    """Each request by itself, whole prompts, nothing cached."""
    llm = make_llm(enable_prefix_caching=False)
    results = []
    for prompt, settings in zip(PROMPTS, PARAMS, strict=True):
        [output] = llm.generate([{"prompt_token_ids": prompt}], settings, use_tqdm=False)
        results.append(list(output.outputs[0].token_ids))
    return results


def test_lengths(alone: list[list[int]]) -> None:
    assert [len(result) for result in alone] == [p.max_tokens for p in PARAMS]


def test_in_a_crowd(make_llm: Make, alone: list[list[int]]) -> None:
    assert tokens(make_llm()) == alone


def test_chunked(make_llm: Make, alone: list[list[int]]) -> None:
    assert tokens(make_llm(max_num_batched_tokens=16, max_num_seqs=4)) == alone


def test_preempted(make_llm: Make, alone: list[list[int]]) -> None:
    llm = make_llm(num_gpu_blocks_override=14, block_size=8, max_model_len=96)
    assert tokens(llm) == alone
    assert llm.engine.scheduler.num_preemptions > 0


def test_prefix_cache_hot(make_llm: Make, alone: list[list[int]]) -> None:
    llm = make_llm(block_size=8)
    assert tokens(llm) == alone
    outputs = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], PARAMS, use_tqdm=False)
    assert sum(output.num_cached_tokens or 0 for output in outputs) > 0
    assert [list(output.outputs[0].token_ids) for output in outputs] == alone


def test_without_the_pipeline(make_llm: Make, alone: list[list[int]]) -> None:
    assert tokens(make_llm(async_scheduling=False)) == alone


@pytest.mark.parametrize("arguments", [{}, {"num_gpu_blocks_override": 14, "block_size": 8, "max_model_len": 96}])
def test_several_steps_a_dispatch(
    make_llm: Make, alone: list[list[int]], arguments: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make_llm(num_scheduler_steps=4, **arguments)
    seen = []
    dispatch = llm.engine.runner.dispatch
    monkeypatch.setattr(llm.engine.runner, "dispatch", lambda plan: seen.append(plan.num_steps) or dispatch(plan))
    assert tokens(llm) == alone
    few = [i for i in range(len(PROMPTS)) if i % 3 < 2][:5]  # "everything" needs its steps alone
    for chosen in ([few[0]], few):
        given = [{"prompt_token_ids": PROMPTS[i]} for i in chosen]
        outputs = llm.generate(given, [PARAMS[i] for i in chosen], use_tqdm=False)
        assert [list(output.outputs[0].token_ids) for output in outputs] == [alone[i] for i in chosen]
        assert 4 in seen[-6:]


@pytest.fixture(scope="module")
def lonely_logprobs(make_llm: Make) -> list[list[float]]:
    llm = make_llm(enable_prefix_caching=False)
    return [logprobs(llm, [index])[0] for index in range(len(PROMPTS))]


def logprobs(llm: LLM, indices: list[int]) -> list[list[float]]:
    """Of each token that was drawn."""
    settings = [SamplingParams(max_tokens=14, ignore_eos=True, seed=i, logprobs=0) for i in indices]
    outputs = llm.generate([{"prompt_token_ids": PROMPTS[i]} for i in indices], settings, use_tqdm=False)
    return [[found.logprob for at in output.outputs[0].logprobs for found in at.values()] for output in outputs]


@pytest.mark.skipif(not cpu_build.available(), reason="XLA's products add in an order that depends on their shape")
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_num_batched_tokens": 16, "max_num_seqs": 4},
        {"num_gpu_blocks_override": 14, "block_size": 8, "max_model_len": 96},
    ],
    ids=["in a crowd", "chunked", "preempted"],
)
def test_native_kernels_give_the_same_logprobs_to_the_bit(
    make_llm: Make, lonely_logprobs: list[list[float]], arguments: dict[str, int]
) -> None:
    assert logprobs(make_llm(**arguments), list(range(len(PROMPTS)))) == lonely_logprobs


@pytest.mark.parametrize("size", [2, 4, 8])
def test_tensor_parallel(make_llm: Make, alone: list[list[int]], size: int) -> None:
    greedy = [i for i, p in enumerate(PARAMS) if p.temperature == 0]
    results = tokens(make_llm(tensor_parallel_size=size))
    assert [results[i] for i in greedy] == [alone[i] for i in greedy]
