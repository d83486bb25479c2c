"""What cannot be served gets one line with what is wrong and what would work, and the engine goes on with the rest."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_checkpoint import SMALL_ENGINE, TINY, random_tensors

from jaxengine import LLM, InvalidRequest, SamplingParams
from jaxengine.arguments import engine_config
from jaxengine.build import build_engine
from jaxengine.engine import Engine
from jaxengine.runner import Runner

PROMPT = [1, 2, 3]
GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
Serves = Callable[[], None]


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    assert len(str(error)) < 400
    return str(error)


# -- start-up ----------------------------------------------------------------------------------------------------------


def refused(model: Path, **arguments: Any) -> str:
    """How an engine of this model is refused, before anything is compiled for it."""
    with pytest.raises(ValueError, match=r".") as caught:
        LLM(str(model), **(SMALL_ENGINE | {"enforce_eager": True} | arguments))
    return one_line(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_num_sequences": 4}, ["max_num_sequences: the engine has no such argument", "max_num_seqs"]),
        ({"quantization": "awq"}, ["quantization: 'awq' is not supported; leave it out"]),
        ({"max_num_seqs": "many"}, ["max_num_seqs: got 'many'; use a value of type int"]),
        ({"max_num_seqs": 65}, ["max_num_batched_tokens: 64", "use at least 65"]),
        ({"max_model_len": 257}, ["max_model_len: got 257", "use at most 256"]),
        ({"max_model_len": "1k"}, ["max_model_len: got 1000", "use at most 256"]),
        (
            {"tensor_parallel_size": 3},
            ["tensor_parallel_size=3 does not divide the model's 8 attention heads", "1 or 2"],
        ),
        ({"tensor_parallel_size": 16}, ["tensor_parallel_size=16 needs 16 devices", "tensor_parallel_size=8 or less"]),
        (
            {"num_gpu_blocks_override": 8},
            ["num_gpu_blocks_override: got 8", "use at least 9", "max_model_len to at most 112"],
        ),
        ({"kv_cache_memory_bytes": 4096}, ["kv_cache_memory_bytes: got 4,096", "use at least 73,728"]),
        ({"kv_cache_memory_bytes": 1 << 60}, ["kv_cache_memory_bytes: the plan needs", "lower it to at most"]),
        ({"gpu_memory_utilization": 1e-7}, ["gpu_memory_utilization: one request of 128 tokens needs", "raise it"]),
        (
            {"model_impl": "jax", "hf_overrides": {"architectures": ["BloomForCausalLM"]}},
            ["'BloomForCausalLM'", "jaxengine models"],
        ),
        ({"hf_overrides": {"num_hidden_layers": "two"}}, ["config.json: 'num_hidden_layers' is 'two'"]),
        ({"hf_overrides": {"intermediate_size": 100}}, ["_proj.weight' has shape [", "config.json asks for"]),
        ({"skip_tokenizer_init": False}, ["no tokenizer.json", "skip_tokenizer_init"]),
        ({"tokenizer": "/nowhere", "skip_tokenizer_init": False}, ["/nowhere: no such directory"]),
        ({"override_generation_config": {"temperature": -1}}, ["temperature: got -1"]),
        ({"compilation_cache_dir": "/proc/here"}, ["compilation_cache_dir: /proc/here cannot be made", "or off"]),
    ],
)
def test_engine_arguments(tiny_model: Path, arguments: dict[str, Any], words: list[str]) -> None:
    message = refused(tiny_model, **arguments)
    assert all(word in message for word in words), message


def test_the_numbers_in_the_messages_work(tiny_model: Path) -> None:
    for arguments in ({"num_gpu_blocks_override": 9}, {"kv_cache_memory_bytes": 73_728}, {"max_num_seqs": 64}):
        with LLM(str(tiny_model), **(SMALL_ENGINE | {"enforce_eager": True} | arguments)) as llm:
            assert llm.engine.max_model_len == 128


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """The tiny model in two files with an index."""
    tensors, files = random_tensors(), {}
    for number, part in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, tmp_path / file)
        files |= dict.fromkeys(part, file)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return tmp_path


def test_shards(shards: Path, tiny_model: Path, tmp_path: Path) -> None:
    with LLM(str(shards), **SMALL_ENGINE, enforce_eager=True) as llm:
        split = llm.generate(PROMPT, GREEDY, use_tqdm=False)[0].outputs[0].token_ids
    with LLM(str(tiny_model), **SMALL_ENGINE, enforce_eager=True) as llm:
        assert llm.generate(PROMPT, GREEDY, use_tqdm=False)[0].outputs[0].token_ids == split


def test_a_missing_shard(shards: Path) -> None:
    (shards / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors: shard is missing (1 of 2 are there)" in refused(shards)


def test_a_truncated_shard(shards: Path) -> None:
    file = shards / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    message = refused(shards)
    assert f"{file}: truncated" in message
    assert "download the file again" in message


def test_a_bad_checkpoint_is_refused_before_anything_compiles(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(*_: object, **__: object) -> None:
        raise AssertionError("compiled for a checkpoint that cannot be read")

    monkeypatch.setattr(Runner, "compile", compile)
    file = shards / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file}: truncated" in refused(shards, enforce_eager=False)


def test_a_tensor_of_another_shape(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model / "config.json", tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(random_tensors() | {name: np.zeros((95, 64), np.float32)}, tmp_path / "model.safetensors")
    expected = f"model.safetensors: tensor {name!r} has shape [95, 64], but config.json asks for [96, 64]."
    assert expected in refused(tmp_path)


def test_no_such_model() -> None:
    assert "/no/where: no such directory" in refused(Path("/no/where"))


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llm(make_llm: Callable[..., LLM]) -> LLM:
    return make_llm(enforce_eager=True, max_num_seqs=8)


@pytest.fixture(scope="module")
def expected(llm: LLM) -> list[int]:
    return list(llm.generate(PROMPT, GREEDY, use_tqdm=False)[0].outputs[0].token_ids)


@pytest.fixture
def serves(llm: LLM, expected: list[int]) -> Serves:
    """Checks that nothing of a refused request is left, and that the engine answers the next one."""

    def check() -> None:
        scheduler = llm.engine.scheduler
        assert not llm.engine.has_unfinished()
        assert scheduler.pool.usage == 0
        assert list(llm.generate(PROMPT, GREEDY, use_tqdm=False)[0].outputs[0].token_ids) == expected

    return check


def all_refused(llm: LLM, prompt: Any, changes: dict[str, Any]) -> InvalidRequest:
    """The refusal of the second of two requests, whose first could be served."""
    with pytest.raises(InvalidRequest) as caught:
        llm.generate([PROMPT, prompt], [GREEDY, SamplingParams(**changes)], use_tqdm=False)
    one_line(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("prompt", "field", "words"),
    [
        ([], "prompt_token_ids", "the prompt is empty; send at least one token"),
        ([5] * 128, "prompt_token_ids", "128 tokens and the context length is 128; send at most 127"),
        ([1, 256], "prompt_token_ids", "256 is not in the vocabulary; use ids from 0 to 255"),
        ([-1], "prompt_token_ids", "-1 is not in the vocabulary"),
        ([1 << 70], "prompt_token_ids", "is not in the vocabulary"),
        ("text", "prompt", "needs a tokenizer; send token ids or load without skip_tokenizer_init"),
        ({"prompt": "text"}, "prompt", "needs a tokenizer"),
        ({}, "prompt", "prompt 1 has neither text nor tokens"),
        (None, "prompt", "prompt 1 is a NoneType"),
        ([1.5], "prompt", "prompt 1 is a list of something else"),
    ],
)
def test_prompts(llm: LLM, serves: Serves, prompt: Any, field: str, words: str) -> None:
    error = all_refused(llm, prompt, {})
    assert (error.field, words in str(error)) == (field, True), error
    serves()


def test_the_longest_prompt_is_served(llm: LLM) -> None:
    (output,) = llm.generate([5] * 127, SamplingParams(max_tokens=None), use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 1


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"n": 2, "temperature": 0}, "n", "use n=1 or a temperature above 0"),
        ({"n": 0}, "n", "use an integer between 1 and"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "9 is more than max_tokens=8"),
        ({"min_tokens": 126, "max_tokens": None}, "min_tokens", "use at most 125"),
        ({"max_tokens": 0}, "max_tokens", "use an integer of at least 1"),
        ({"stop": "x", "detokenize": False}, "stop", "set detokenize=True or use stop_token_ids"),
        ({"stop": "x"}, "stop", "needs a tokenizer; use stop_token_ids"),
        ({"bad_words": ["x"]}, "bad_words", "needs a tokenizer; use logit_bias"),
        ({"stop": [""]}, "stop", "use non-empty strings only"),
        ({"logprobs": 21}, "logprobs", "21 were asked and 20 are allowed"),
        ({"logprobs": -1}, "logprobs", "256 were asked and 20 are allowed"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "raise max_logprobs"),
        ({"temperature": -0.5}, "temperature", "use a finite number of at least 0"),
        ({"top_p": 0}, "top_p", "above 0 and at most 1"),
        ({"top_k": -2}, "top_k", "or -1 for no limit"),
        ({"stop_token_ids": [256]}, "stop_token_ids", "use ids from 0 to 255"),
        ({"allowed_token_ids": [300]}, "allowed_token_ids", "use ids from 0 to 255"),
        ({"allowed_token_ids": [255], "min_tokens": 2}, "allowed_token_ids", "or set min_tokens=0"),
        ({"logit_bias": {256: 1.0}}, "logit_bias", "use ids from 0 to 255"),
        ({"structured_outputs": {"json": "{}"}}, "structured_outputs", "a grammar needs a tokenizer"),
    ],
)
def test_parameters(llm: LLM, serves: Serves, changes: dict[str, Any], field: str, words: str) -> None:
    error = all_refused(llm, PROMPT, changes)
    assert (error.field, words in str(error)) == (field, True), error
    serves()


def test_priority_is_refused_where_it_means_nothing(llm: LLM, serves: Serves) -> None:
    for priority in (3, "high"):
        with pytest.raises(InvalidRequest, match=r"^priority: "):
            llm.generate([PROMPT, PROMPT], GREEDY, use_tqdm=False, priority=[0, priority])
        serves()


@pytest.mark.parametrize(
    "changes",
    [
        {"top_k": 1 << 40},
        {"max_tokens": 2**63 - 1, "stop_token_ids": list(range(256))},
        {"seed": (1 << 64) - 1},
        {"repetition_penalty": 1e30},
        {"logit_bias": dict.fromkeys(range(256), -100)},
        {"temperature": 1e30},
        {"min_p": 1.0, "top_p": 1e-30},
    ],
)
def test_extreme_values_are_served(llm: LLM, serves: Serves, changes: dict[str, Any]) -> None:
    (output,) = llm.generate(PROMPT, SamplingParams(max_tokens=4).clone(**changes), use_tqdm=False)
    assert all(0 <= token < 256 for token in output.outputs[0].token_ids)
    serves()


def finish(engine: Engine) -> dict[str, list[int]]:
    """Tokens by request id, sequences one after the other."""
    tokens = {}
    while engine.has_unfinished():
        for output in engine.step():
            if output.finished:
                tokens[output.request_id] = [t for sequence in output.outputs for t in sequence.token_ids]
    return tokens


@pytest.mark.parametrize("first", ["parent", "child"])
def test_a_request_named_like_a_sequence_of_another(llm: LLM, serves: Serves, first: str) -> None:
    """With n > 1 the sequences of "x" are "0_x", "1_x", …: none is queued while one of the names is taken."""
    engine = llm.engine
    several = SamplingParams(n=3, seed=1, max_tokens=4, ignore_eos=True)
    order = [("x", several), ("1_x", GREEDY)]
    (served, params), (refused_id, its_params) = order if first == "parent" else order[::-1]
    engine.add(served, PROMPT, params)
    for started in (False, True):
        if started:
            engine.step()
        before = len(engine.scheduler.requests)
        with pytest.raises(InvalidRequest, match=r"^request_id: a sequence named '1_x' is already running"):
            engine.add(refused_id, PROMPT, its_params)
        assert len(engine.scheduler.requests) == before
    assert len(finish(engine)[served]) == (12 if first == "parent" else 6)
    engine.add(refused_id, PROMPT, its_params)
    assert list(finish(engine)) == [refused_id]
    serves()


def test_the_same_name_twice(llm: LLM, serves: Serves, expected: list[int]) -> None:
    llm.engine.add("x", PROMPT, GREEDY)
    with pytest.raises(InvalidRequest, match=r"^request_id: 'x' is already running"):
        llm.engine.add("x", PROMPT, GREEDY)
    assert finish(llm.engine) == {"x": expected}
    serves()


def test_refusals_disturb_no_running_request(tiny_model: Path, expected: list[int]) -> None:
    """Between any two steps of a running request another one is refused."""
    arguments = SMALL_ENGINE | {"enforce_eager": True, "scheduling_policy": "priority"}
    engine = build_engine(engine_config(model=str(tiny_model), **arguments), progress=False)
    wrong = itertools.cycle(
        [
            ([], GREEDY, {}),
            ([256], GREEDY, {}),
            ([5] * 128, GREEDY, {}),
            (PROMPT, GREEDY.clone(logprobs=21), {}),
            (PROMPT, GREEDY.clone(stop="x"), {}),
            (PROMPT, GREEDY, {"priority": "high"}),
        ]
    )
    engine.add("good", PROMPT, GREEDY, priority=1)
    tokens = None
    while engine.has_unfinished():
        prompt, params, fields = next(wrong)
        with pytest.raises(InvalidRequest):
            engine.add("bad", prompt, params, **fields)
        for output in engine.step():
            tokens = list(output.outputs[0].token_ids)
    assert tokens == expected
    engine.close()
