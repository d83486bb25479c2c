"""The step as a program: nothing compiles after ready, donated buffers are aliased, collectives are two a layer."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxengine import LLM, SamplingParams
from jaxengine.compile import CompiledWhileServing, forbid_compile
from jaxengine.request import RequestOutputKind
from jaxengine.runner import Runner
from jaxengine.state import device_bytes

Make = Callable[..., LLM]

EVERY_KIND = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.05},
    {"presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.3},
    {"seed": 7, "n": 3},
    {"stop_token_ids": [3, 4, 5], "min_tokens": 4},
    {"logprobs": 5},
    {"logprobs": 0, "prompt_logprobs": 3},
    {"logit_bias": {1: 5.0, 2: -100.0}},
    {"allowed_token_ids": [1, 2, 3]},
    {"ignore_eos": True, "output_kind": RequestOutputKind.DELTA},
]


@pytest.mark.parametrize("num_steps", [1, 3])
def test_nothing_compiles_after_ready(make_llm: Make, num_steps: int) -> None:
    llm = make_llm(num_scheduler_steps=num_steps)
    for length in (1, 2, 15, 16, 17, 63, 64, 100):
        prompts = [{"prompt_token_ids": [(7 * i + length) % 250 for i in range(length)]} for _ in EVERY_KIND]
        params = [SamplingParams(max_tokens=8, **kind) for kind in EVERY_KIND]
        with forbid_compile():
            together = llm.generate(prompts, params, use_tqdm=False)
            apart = [llm.generate(p, s, use_tqdm=False)[0] for p, s in zip(prompts, params, strict=True)]
        assert all(output.finished for output in together + apart)


@pytest.mark.parametrize("size", [1, 2])
def test_a_second_start_traces_nothing(
    make_llm: Make, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = {"compilation_cache_dir": str(tmp_path), "tensor_parallel_size": size}
    prompts = [{"prompt_token_ids": list(range(1, length))} for length in (2, 17, 40)]
    params = SamplingParams(max_tokens=8, seed=3, logprobs=2)
    first = [output.outputs for output in make_llm(**engine).generate(prompts, params, use_tqdm=False)]
    monkeypatch.setattr(Runner, "_lower", lambda self, program: pytest.fail(f"{program} was traced again"))
    again = make_llm(**engine)
    assert [output.outputs for output in again.generate(prompts, params, use_tqdm=False)] == first
    state = device_bytes(again.engine.runner.abstract)
    for program, compiled in again.engine.runner.programs.items():
        assert compiled.memory_analysis().alias_size_in_bytes >= state, program


@pytest.fixture
def jax_cache(tmp_path: Path) -> Iterator[None]:
    """jax's own cache, as somebody may have set it, in a directory of its own."""
    changes = {"jax_compilation_cache_dir": str(tmp_path / "jax"), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.clear_caches()  # as in a new process
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_programs_of_jax_own_cache_are_not_stored_again(make_llm: Make, tmp_path: Path, jax_cache: None) -> None:
    """A loaded program cannot be serialized again everywhere: a third start would meet a broken one."""
    engine = {"compilation_cache_dir": str(tmp_path)}
    prompt, params = [{"prompt_token_ids": [1, 2, 3]}], SamplingParams(max_tokens=4, temperature=0.0)
    first = make_llm(**engine).generate(prompt, params, use_tqdm=False)[0].outputs
    assert any((tmp_path / "jax").iterdir())
    shutil.rmtree(tmp_path / "programs")
    for _ in range(2):
        jax.clear_caches()  # as in a new process
        assert make_llm(**engine).generate(prompt, params, use_tqdm=False)[0].outputs == first
    assert [*(tmp_path / "programs").rglob("*")] == []


def test_forbid_compile_raises() -> None:
    with forbid_compile(), pytest.raises(CompiledWhileServing):
        jax.jit(lambda x: x * 3 + 1)(jnp.ones(3))


def test_the_state_is_updated_in_place(make_llm: Make) -> None:
    runner = make_llm(num_scheduler_steps=4).engine.runner
    assert any(program.num_steps == 4 for program in runner.programs)
    state = device_bytes(runner.abstract)
    for program, compiled in runner.programs.items():
        assert compiled.memory_analysis().alias_size_in_bytes >= state, program


@pytest.mark.parametrize("size", [2, 4])
def test_two_all_reduces_a_layer(make_llm: Make, size: int) -> None:
    runner = make_llm(tensor_parallel_size=size).engine.runner
    layers = runner.model.config.num_layers
    for program, compiled in runner.programs.items():
        if not program.full:
            text = compiled.as_text()
            assert len(re.findall(r" all-reduce(?:-start)?\(", text)) == 2 * layers + 1, program
            assert len(re.findall(r" all-gather(?:-start)?\(", text)) <= 1, program
            assert not re.findall(r" (?:all-to-all|collective-permute)(?:-start)?\(", text), program


@pytest.mark.parametrize(("name", "dtype"), [("fp8", jnp.float8_e4m3fn), ("fp8_e5m2", jnp.float8_e5m2)])
def test_pages_of_eight_bits_hold_more_tokens_and_give_nearly_the_same(
    make_llm: Make, name: str, dtype: jnp.dtype
) -> None:
    prompts = [{"prompt_token_ids": [(7 * i + n) % 250 for i in range(n)]} for n in (3, 40, 90)]
    params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=5)

    def first(llm: LLM) -> list[dict[int, float]]:
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [{token: found.logprob for token, found in o.outputs[0].logprobs[0].items()} for o in outputs]

    plain, narrow = (make_llm(kv_cache_dtype=kind, kv_cache_memory_bytes=1 << 20) for kind in ("auto", name))
    assert narrow.engine.runner.state.kv[0].dtype == dtype
    assert narrow.engine.memory.num_pages == 4 * plain.engine.memory.num_pages
    for wide, eight in zip(first(plain), first(narrow), strict=True):
        shared = wide.keys() & eight.keys()
        assert len(shared) >= 3
        assert all(abs(wide[token] - eight[token]) < 0.5 for token in shared)
