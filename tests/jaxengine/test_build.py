"""Defaults that depend on what an engine is for, and that each door to it says so."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jaxengine import build
from jaxengine.async_engine import AsyncEngine
from jaxengine.config import EngineConfig
from jaxengine.sharding import make_mesh
from torch_compat import choose, hub


@pytest.fixture(scope="module")
def demo():
    wanted = choose.Wanted("auto", "auto", {}, False, page_size=16, cache_dtype=None)
    return choose.choose(hub.resolve("demo"), wanted, make_mesh(1))[0]


@pytest.mark.parametrize(
    ("platform", "served", "asked", "tokens", "seqs"),
    [
        ("gpu", False, {}, 8192, 512),
        ("gpu", True, {}, 2048, 512),
        ("cpu", False, {}, 2048, 64),
        ("cpu", True, {}, 2048, 64),
        ("gpu", True, {"max_num_batched_tokens": 8192}, 8192, 512),
        ("gpu", True, {"max_num_batched_tokens": 100}, 100, 100),
        ("gpu", True, {"max_num_seqs": 4096}, 4096, 4096),  # each of them must be able to go on
    ],
)
def test_limits_by_use(monkeypatch, demo, platform, served, asked, tokens, seqs):
    monkeypatch.setattr(build, "_platform", lambda model: platform)
    limits = build._limits(EngineConfig(**asked), demo, served)
    assert (limits.tokens, limits.seqs) == (tokens, seqs)


class Asked(Exception):
    """What build_core was asked for."""


def tell(config, **asked):
    raise Asked(asked)


def test_callers_of_async_engine_are_served(monkeypatch):
    monkeypatch.setattr(build, "build_core", tell)
    with pytest.raises(Asked) as asked:
        AsyncEngine.from_config(EngineConfig())
    assert asked.value.args[0]["served"]
    with pytest.raises(Asked) as asked:
        build.build_engine(EngineConfig())  # as LLM does
    assert not asked.value.args[0]["served"]


PROCESS = """
from jaxengine import build, engine_process
def tell(config, **asked):
    raise ValueError(asked)
build.build_core = tell
engine_process.main()
"""


def test_an_engine_process_serves():
    process = subprocess.Popen([sys.executable, "-c", PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"address": "ipc:///nowhere", "arguments": {}}).encode() + b"\n")
        process.stdin.flush()  # and stays open: its end is the process's
        assert json.loads(process.stdout.readline())["failure"] == "ValueError: {'served': True}"
