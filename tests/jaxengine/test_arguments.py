"""vLLM's arguments are taken, skipped with a warning, or refused with advice."""

import pytest

from jaxengine.arguments import SAME_ANYWAY, WITHOUT_MEANING, engine_config
from jaxengine.config import EngineConfig
from jaxengine.request import InvalidRequest


def test_known_ones():
    config = engine_config(model="m", max_num_seqs=3, enable_prefix_caching=False)
    assert config == EngineConfig(model="m", max_num_seqs=3, enable_prefix_caching=False)


def test_skipped_ones(caplog):
    assert engine_config(model="m", swap_space=4) == EngineConfig(model="m")
    assert "swap_space=4 is ignored" in caplog.text


def test_same_anyway():
    neutral = {name: values[0] for name, values in SAME_ANYWAY.items()}
    assert engine_config(model="m", **neutral) == EngineConfig(model="m")
    with pytest.raises(InvalidRequest, match="pipeline_parallel_size: 2 is not supported"):
        engine_config(model="m", pipeline_parallel_size=2)


def test_unknown_ones():
    with pytest.raises(InvalidRequest, match="max_num_seqs"):
        engine_config(model="m", max_num_sequences=3)


def test_the_tables_name_nothing_that_exists():
    assert not (SAME_ANYWAY.keys() | WITHOUT_MEANING.keys()) & set(EngineConfig.names())
