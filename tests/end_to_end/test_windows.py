"""A layer with a window beside one without: the same tokens whatever the pool, and pages given back on the way."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from jaxengine import LLM, SamplingParams

Make = Callable[..., LLM]
WINDOW = 20
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
SWITCHES = {"hf_overrides": ALTERNATING | {"use_sliding_window": True}, "block_size": 4, "max_num_batched_tokens": 32}
GREEDY = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True)


def prompts() -> list[list[int]]:
    source = random.Random(1)
    shared = [source.randrange(250) for _ in range(70)]
    own = [[source.randrange(250) for _ in range(source.randrange(1, 40))] for _ in range(6)]
    return own + [shared + tail[:5] for tail in own]


PROMPTS = prompts()


def tokens(llm: LLM) -> list[list[int]]:
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], GREEDY, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.fixture(scope="module")
def theirs(tiny_model: Path) -> list[list[int]]:
    config = transformers.AutoConfig.from_pretrained(tiny_model, use_sliding_window=True, **ALTERNATING)
    model = transformers.Qwen3ForCausalLM.from_pretrained(tiny_model, config=config, attn_implementation="eager").eval()
    results = []
    for prompt in PROMPTS:
        inputs = torch.tensor([prompt])
        out = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=30, do_sample=False, eos_token_id=None
        )
        results.append(out[0, len(prompt) :].tolist())
    return results


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"enable_prefix_caching": False},
        {"num_gpu_blocks_override": 64},  # too few for all at once: some are preempted
        {"tensor_parallel_size": 2},
    ],
)
def test_the_tokens_of_transformers(make_llm: Make, theirs: list[list[int]], changes: dict[str, object]) -> None:
    llm = make_llm(**SWITCHES, **changes)
    assert tokens(llm) == theirs
    scheduler = llm.engine.scheduler
    assert scheduler.groups.windows == (WINDOW, None)
    assert scheduler.pool.usage == 0
    if "num_gpu_blocks_override" in changes:
        assert scheduler.num_preemptions > 0
    if llm.engine.core.config.enable_prefix_caching:
        assert scheduler.prefix_cache.hits > 0
        assert tokens(llm) == theirs  # now nearly all from the cache


def test_pages_behind_the_window_are_given_back(make_llm: Make, tiny_model: Path) -> None:
    """A pool of all its layers' pages could not hold this prompt."""
    llm = make_llm(**SWITCHES, num_gpu_blocks_override=50)
    scheduler = llm.engine.scheduler
    longest = scheduler.max_length - 1
    assert longest > 100 > 49 * 4 / 2
    [output] = llm.generate([{"prompt_token_ids": [5] * (longest - 1)}], GREEDY, use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 2
