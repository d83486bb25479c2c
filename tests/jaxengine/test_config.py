"""EngineConfig: what cannot be right is refused with the field, and every knob is documented."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from jaxengine.config import GROUPS, EngineConfig, parse_length
from jaxengine.request import InvalidRequest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dtype", "int3"),
        ("load_format", "pickle"),
        ("scheduling_policy", "random"),
        ("block_size", 12),
        ("max_num_seqs", 0),
        ("tensor_parallel_size", -1),
        ("gpu_memory_utilization", 1.5),
        ("max_logprobs", -2),
        ("max_model_len", "long"),
        ("max_num_seqs", "8"),
        ("max_num_seqs", True),
        ("block_size", 16.0),
        ("gpu_memory_utilization", "half"),
        ("num_gpu_blocks_override", "x"),
        ("kv_cache_memory_bytes", -1),
        ("long_prefill_token_threshold", -1),
        ("max_logprobs", "a"),
        ("seed", "x"),
        ("hf_overrides", "x"),
        ("enforce_eager", "yes"),
        ("model", 5),
    ],
)
def test_a_wrong_value_names_its_field(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=name) as error:
        EngineConfig(**{name: value})
    assert error.value.field == name


def test_kinds_of_values_that_are_right() -> None:
    config = EngineConfig(model=Path("some") / "where", gpu_memory_utilization=1, tokenizer=None, hf_overrides={"a": 1})
    assert config.model == "some/where"


def test_an_unknown_argument_suggests_the_nearest() -> None:
    with pytest.raises(InvalidRequest, match="max_num_seqs"):
        EngineConfig.from_arguments(max_num_seq=3)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (None, None),
        ("auto", -1),
        (-1, -1),
        (4096, 4096),
        ("4096", 4096),
        ("16k", 16_000),
        ("16K", 16_384),
        ("1.5M", 1_572_864),
    ],
)
def test_lengths(text: object, tokens: int | None) -> None:
    assert parse_length(text) == tokens


def test_every_knob_has_a_group_and_help() -> None:
    for field in dataclasses.fields(EngineConfig):
        assert field.metadata["help"].endswith((".", ")"))
        assert field.metadata["group"] in GROUPS
