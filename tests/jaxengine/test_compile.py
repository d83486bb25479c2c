"""Start-up: what is loaded, traced, compiled and saved, and in which order."""

import threading
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxengine.compile import compile_all

KEYS = ("a", "b", "c", "d")


class Start:
    """The callbacks of compile_all, which remember what happened. `kept`: programs of an earlier start."""

    def __init__(self, kept: tuple[str, ...] = (), found: tuple[str, ...] = (), broken: str = "") -> None:
        self.kept, self.found, self.broken = kept, found, broken
        self.traced: list[str] = []
        self.saved: list[str] = []

    def load(self, key: str) -> Any:
        return f"loaded {key}" if key in self.kept else None

    def lower(self, key: str) -> Any:
        assert threading.current_thread() is threading.main_thread()
        self.traced.append(key)
        return f"lowered {key}"

    def compile(self, key: str, lowered: Any) -> Any:
        assert lowered == f"lowered {key}"
        if key == self.broken:
            raise RuntimeError(f"{key} does not compile")
        return f"compiled {key}", key not in self.found

    def save(self, key: str, program: Any) -> None:
        assert len(self.traced) == len(KEYS) - len(self.kept), "saving holds the interpreter while others are traced"
        assert program == f"compiled {key}"
        self.saved.append(key)

    def run(self) -> dict[str, Any]:
        return compile_all(KEYS, self.load, self.lower, self.compile, self.save, progress=False)


def test_a_cold_start_saves_everything_once_all_is_traced() -> None:
    start = Start()
    assert start.run() == {key: f"compiled {key}" for key in KEYS}
    assert start.traced == list(KEYS)
    assert sorted(start.saved) == list(KEYS)


def test_only_what_is_missing_is_traced_and_only_what_is_new_is_saved() -> None:
    start = Start(kept=("b",), found=("c",))
    programs = start.run()
    assert list(programs) == list(KEYS)
    assert programs["b"] == "loaded b"
    assert start.traced == ["a", "c", "d"]
    assert sorted(start.saved) == ["a", "d"]


def test_a_program_that_does_not_compile_ends_the_start() -> None:
    with pytest.raises(RuntimeError, match="c does not compile"):
        Start(broken="c").run()


def test_programs_run() -> None:
    def lower(key: int) -> jax.stages.Lowered:
        return jax.jit(lambda x: x * key).lower(jnp.ones(2))

    compiled = compile_all(
        (2, 3), lambda _: None, lower, lambda _, low: (low.compile(), False), lambda *_: None, progress=False
    )
    assert [float(program(jnp.ones(2))[0]) for program in compiled.values()] == [2.0, 3.0]
