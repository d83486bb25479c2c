"""Models with recurrent layers: the same tokens alone, and in a crowd that is cut, preempted and steps ahead."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import transformers
from models_harness import save_transformers_model
from tiny_checkpoint import SMALL_ENGINE

from jaxengine import LLM, SamplingParams
from jaxengine.cache.recurrent import RecurrentCacheSpec
from jaxengine.memory import OutOfMemory

Make = Callable[..., LLM]
SIZES = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "head_dim": 16,
}  # fmt: skip
CONFIGS: dict[str, Callable[[], Any]] = {
    "delta": lambda: transformers.Qwen3_5TextConfig(
        **SIZES, num_hidden_layers=3, layer_types=["linear_attention", "full_attention", "linear_attention"],
        linear_key_head_dim=16, linear_value_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4,
    ),
    "mamba": lambda: transformers.NemotronHConfig(
        **SIZES, layers_block_type=["linear_attention", "mlp", "full_attention", "linear_attention"],
        mamba_num_heads=8, mamba_head_dim=16, n_groups=2, ssm_state_size=16,
    ),
}  # fmt: skip


def prompts(count: int) -> list[list[int]]:
    source = random.Random(0)
    return [[source.randrange(250) for _ in range(source.randrange(1, 70))] for _ in range(count)]


def params(index: int) -> SamplingParams:
    """Greedy and seeded requests in turn."""
    kind = {"temperature": 0.0} if index % 2 else {"temperature": 0.8, "seed": index}
    return SamplingParams(max_tokens=12 + index % 5, ignore_eos=True, **kind)  # type: ignore[arg-type]


PROMPTS = prompts(10)
PARAMS = [params(i) for i in range(len(PROMPTS))]


@pytest.fixture(scope="module", params=CONFIGS)
def make_llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    directory: Path = tmp_path_factory.mktemp(request.param)
    save_transformers_model(directory, CONFIGS[request.param]())
    made: list[LLM] = []

    def make(**changes: Any) -> LLM:
        made.append(LLM(str(directory), **(SMALL_ENGINE | changes)))
        return made[-1]

    yield make
    for llm in made:
        llm.close()


@pytest.fixture(scope="module")
def alone(make_llm: Make) -> LLM:
    """Whole prompts, a step at a time."""
    return make_llm(max_num_batched_tokens=128, num_scheduler_steps=1, max_model_len=400)


@pytest.fixture(scope="module")
def crowded(make_llm: Make) -> LLM:
    """Chunks of at most 16 tokens, too few pages for all, four decode steps at once where there is time."""
    return make_llm(
        max_num_batched_tokens=16, max_num_seqs=6, num_gpu_blocks_override=16, block_size=8, max_model_len=96,
        num_scheduler_steps=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def expected(alone: LLM) -> list[list[int]]:
    return [generate(alone, [i])[0] for i in range(len(PROMPTS))]


def generate(llm: LLM, which: Sequence[int]) -> list[list[int]]:
    asked = [{"prompt_token_ids": PROMPTS[i]} for i in which]
    outputs = llm.generate(asked, [PARAMS[i] for i in which], use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def test_in_a_crowd(crowded: LLM, expected: list[list[int]]) -> None:
    for _ in range(2):  # again in slots that others have left
        assert generate(crowded, range(len(PROMPTS))) == expected
    assert crowded.engine.scheduler.num_preemptions > 0


def test_several_steps_at_once(crowded: LLM, expected: list[list[int]]) -> None:
    """Two rows of unlike lengths: one ends between the steps of a dispatch."""
    assert generate(crowded, [1, 6]) == [expected[1], expected[6]]


def test_in_a_crowd_of_whole_prompts(alone: LLM, expected: list[list[int]]) -> None:
    assert generate(alone, range(len(PROMPTS))) == expected


def test_prompts_go_on_from_kept_states(alone: LLM) -> None:
    """The same again from its last full page; of three that part after 290 tokens, the third from there."""
    source = random.Random(1)
    common = [source.randrange(250) for _ in range(290)]
    asked = [[*common, *[source.randrange(250) for _ in range(20)]] for _ in range(3)]

    def ask(prompt: list[int]) -> tuple[list[int], int | None]:
        settings = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
        [output] = alone.generate([{"prompt_token_ids": prompt}], settings, use_tqdm=False)
        return list(output.outputs[0].token_ids), output.num_cached_tokens

    first = [ask(prompt) for prompt in asked]
    assert [cached for _, cached in first] == [0, 0, 288]
    again = [ask(prompt) for prompt in asked]
    assert [cached for _, cached in again] == [304, 288, 288]  # the ends of the others are near where they part
    assert [tokens for tokens, _ in again] == [tokens for tokens, _ in first]
    alone.reset_prefix_cache()
    assert ask(asked[2]) == (first[2][0], 0)


def test_siblings_and_prompt_logprobs(alone: LLM, crowded: LLM) -> None:
    """The full program, whose every token has logits; and samples of one prompt, each with a state of its own."""
    settings = SamplingParams(n=2, seed=5, max_tokens=5, ignore_eos=True, prompt_logprobs=0, logprobs=0)
    [one], [other] = (
        llm.generate([{"prompt_token_ids": PROMPTS[3]}], settings, use_tqdm=False) for llm in (alone, crowded)
    )
    assert [sample.token_ids for sample in one.outputs] == [sample.token_ids for sample in other.outputs]
    assert len(one.prompt_logprobs) == len(other.prompt_logprobs) == len(PROMPTS[3])
    for entry, same, token in zip(one.prompt_logprobs[1:], other.prompt_logprobs[1:], PROMPTS[3][1:], strict=True):
        assert entry[token].logprob == pytest.approx(same[token].logprob, abs=1e-4)


def test_states_are_in_the_memory_plan(make_llm: Make, crowded: LLM) -> None:
    plan, model = crowded.engine.core.memory, crowded.engine.core.runner.model
    states = [spec for spec in model.cache_specs() if isinstance(spec, RecurrentCacheSpec)]
    assert plan.slot_bytes == sum(spec.slot_bytes for spec in states) > 0
    assert plan.state > 7 * plan.slot_bytes
    assert "recurrent states" in plan.table()
    with pytest.raises(OutOfMemory, match="max_num_seqs"):
        make_llm(max_num_seqs=1 << 24, max_num_batched_tokens=1 << 24)
