import logging
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxengine import program_store
from jaxengine.program_store import KEPT, ProgramStore, identify

DEVICES = jax.devices()[:1]


def compiled(factor: float) -> jax.stages.Compiled:
    return jax.jit(lambda tree: {"out": tree["x"] * factor}).lower({"x": jnp.zeros(3)}).compile()


def test_a_program_comes_back_as_it_was(tmp_path: Path) -> None:
    store = ProgramStore(tmp_path, "engine")
    assert store.load("times", DEVICES) is None
    store.save("times", compiled(3.0))
    back = ProgramStore(tmp_path, "engine").load("times", DEVICES)
    assert back is not None
    np.testing.assert_array_equal(back({"x": jnp.arange(3.0)})["out"], [0, 3, 6])
    assert ProgramStore(tmp_path, "another engine").load("times", DEVICES) is None
    assert [path.name for path in store.home.iterdir()] == ["times"]


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04K\x01."])
def test_a_damaged_file_is_a_miss(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    store = ProgramStore(tmp_path, "engine")
    store.save("times", compiled(3.0))
    (store.home / "times").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert store.load("times", DEVICES) is None
    assert "compiling again" in caplog.text


def test_a_directory_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    store = ProgramStore(tmp_path / "file", "engine")
    store.save("times", compiled(3.0))
    store.tidy()
    assert "is not kept" in caplog.text


def test_the_engines_not_used_for_longest_go(tmp_path: Path) -> None:
    stores = [ProgramStore(tmp_path, str(i)) for i in range(KEPT + 2)]
    for age, store in enumerate(stores):
        store.home.mkdir(parents=True)
        os.utime(store.home, (1000 + age, 1000 + age))
    stores[0].tidy()  # it is in use now
    assert [store.home.exists() for store in stores] == [True, False, False] + [True] * (KEPT - 1)


def test_identity_follows_everything_a_program_is_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    same = identify(DEVICES, "model", 16)
    assert identify(DEVICES, "model", 16) == same
    assert identify(DEVICES, "model", 32) != same
    assert identify(jax.devices()[:2], "model", 16) != same
    with jax.default_matmul_precision("highest"):
        assert identify(DEVICES, "model", 16) != same
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_fast_math=true")
    assert identify(DEVICES, "model", 16) != same
    monkeypatch.undo()
    monkeypatch.setattr(program_store, "_sources", lambda: "an edit")
    assert identify(DEVICES, "model", 16) != same
