"""keep_top: the reference and the kernel (interpreted) against sorting in float64."""

from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pallas_kernels.backend import Backend
from pallas_kernels.top_k import keep_top, threshold, thresholds
from pallas_kernels.top_k.bracket import LOWEST, image, value

FEW_LANES = "pallas with few lanes"  # which drop many values, so that it must search the row as well
BACKENDS = ("reference", "pallas", FEW_LANES)
S = 4


def kept_by_sorting(row: np.ndarray, top_k: int, top_p: float, min_p: float) -> tuple[np.ndarray, float]:
    """([V] bool, how near the top_p cut is to the sum of probabilities that decided it)."""
    row = row.astype(np.float64)
    keep = row >= row.max() + np.log(min_p) if min_p > 0 else np.ones(len(row), bool)
    if 0 < top_k < len(row):
        keep &= row >= np.sort(np.where(keep, row, -np.inf))[-top_k]
    margin = 1.0
    if top_p < 1.0 and row.max() > -np.inf:
        probs = np.where(keep, np.exp(row - row.max()), 0.0)
        probs /= probs.sum()
        levels = np.unique(row[keep])[::-1]  # equal values stay or go together
        reached = np.cumsum([probs[keep & (row == level)].sum() for level in levels])
        keep &= row >= levels[np.argmax(reached >= top_p)]
        margin = np.abs(reached - top_p).min()
    return keep, margin


def program(name: str) -> Callable[..., Array]:
    def run(*args: Array) -> Array:
        few = 2 if args[0].shape[1] < 200 else 8
        lanes = few if name == FEW_LANES else threshold.BLOCK
        with mock.patch.object(threshold, "BLOCK", lanes):
            return keep_top(*args, backend=backend)

    backend: Backend = "reference" if name == "reference" else "pallas"
    return jax.jit(run)


RUN = {name: program(name) for name in BACKENDS}


def check(backend: str, x: np.ndarray, top_k: list[int], top_p: list[float], min_p: list[float]) -> None:
    settings_ = np.array(top_k, np.int32), np.array(top_p, np.float32), np.array(min_p, np.float32)
    out = np.asarray(RUN[backend](x, *settings_))
    for row, (k, p, m) in enumerate(zip(*settings_, strict=True)):
        keep, margin = kept_by_sorting(x[row], int(k), float(p), float(m))
        if margin > 1e-6:
            np.testing.assert_array_equal(out[row], np.where(keep, x[row], -np.inf), err_msg=f"{k=} {p=} {m=}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("V", [1, 2, 127, 129, 1000, 9000])
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0, 1e30])
def test_random_logits(backend: str, V: int, spread: float) -> None:
    rng = np.random.default_rng(V)
    x = (rng.normal(size=(8, V)) * spread).astype(np.float32)
    x[5] = np.round(x[5])  # ties
    x[6, rng.random(V) < 0.8] = -np.inf
    x[7, : V // 2] = x[7].max()
    check(backend, x, [0, 0, 3, 50, 50, 10, 7, 5], [1, 0.9, 1, 1, 0.7, 0.8, 0.9, 0.95], [0, 0, 0, 0, 0, 0, 0, 0.01])


row_settings = st.tuples(
    st.sampled_from([0, 1, 2, 3, 7, 16, 20]),
    st.sampled_from([1.0, 0.999, 0.9, 0.53, 0.1, 1e-7]),
    st.sampled_from([0.0, 1e-6, 0.05, 0.4, 1.0]),
)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_any_logits(backend: str, data: st.DataObject) -> None:
    numbers = st.one_of(
        st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
        st.sampled_from([0.0, -0.0, 1.0, 1.0000001, -np.inf, 2e-38, -2e-38, 3e38, -3e38]),
    )
    x = np.array(data.draw(st.lists(st.lists(numbers, min_size=16, max_size=16), min_size=S, max_size=S)), np.float32)
    assume((x.max(axis=1) > -np.inf).all())
    top_k, top_p, min_p = zip(*data.draw(st.lists(row_settings, min_size=S, max_size=S)), strict=True)
    check(backend, x, list(top_k), list(top_p), list(min_p))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_with_everything_off_are_unchanged(backend: str) -> None:
    x = np.full((3, 40), -np.inf, np.float32)
    x[1] = np.random.default_rng(0).normal(size=40)
    x[2, 3] = 1.0
    off = np.zeros(3, np.int32), np.ones(3, np.float32), np.zeros(3, np.float32)
    np.testing.assert_array_equal(RUN[backend](x, *off), x)


@pytest.mark.parametrize("backend", ["reference", "pallas"])
def test_the_temperature_counts_for_probabilities_only(backend: Backend) -> None:
    x = np.random.default_rng(0).normal(size=(6, 200)).astype(np.float32)
    temperature = np.array([0.3, 1, 2, 0.5, 0.5, 0], np.float32)
    limits = np.array([0, 0, 0, 7, 0, 0], np.int32), np.array([0.8, 0.8, 0.8, 1, 1, 1], np.float32)
    min_p = np.array([0, 0, 0, 0, 0.2, 0], np.float32)
    keep = np.asarray(thresholds(x, temperature, *limits, min_p, backend=backend))
    scaled = x / np.where(temperature > 0, temperature, 1)[:, None]
    expected = [kept_by_sorting(*row)[0] for row in zip(scaled, *limits, min_p, strict=True)]
    np.testing.assert_array_equal(x >= keep[:, None], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_without_any_token_stays_one(backend: str) -> None:
    x = np.full((1, 40), -np.inf, np.float32)
    out = RUN[backend](x, np.array([3], np.int32), np.array([0.5], np.float32), np.array([0.1], np.float32))
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_at_least_one_token_is_kept_and_larger_k_than_the_vocabulary_keeps_all(backend: str) -> None:
    x = np.arange(20, dtype=np.float32)[None].repeat(3, axis=0)
    settings_ = np.array([0, 1, 50], np.int32), np.array([1e-30, 1, 1], np.float32), np.zeros(3, np.float32)
    assert (np.asarray(RUN[backend](x, *settings_)) > -np.inf).sum(axis=1).tolist() == [1, 1, 20]


@pytest.mark.parametrize("backend", BACKENDS)
def test_top_p_counts_only_what_top_k_left(backend: str) -> None:
    x = np.log(np.array([[0.4, 0.3, 0.2, 0.1]], np.float32))
    settings_ = np.array([2], np.int32), np.array([0.55], np.float32), np.zeros(1, np.float32)
    assert (np.asarray(RUN[backend](x, *settings_)) > -np.inf).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_at_the_cut_stay_together(backend: str) -> None:
    x = np.array([[1, 2, 2, 2, 0]], np.float32)
    for k, p in ((2, 1.0), (0, 0.4)):
        out = RUN[backend](x, np.array([k], np.int32), np.array([p], np.float32), np.zeros(1, np.float32))
        assert (np.asarray(out) > -np.inf).tolist() == [[False, True, True, True, False]]


def test_rows_may_be_sharded() -> None:
    """Each row is found alone: the same under any sharding of the rows."""
    mesh = jax.make_mesh((4,), ("tp",), axis_types=(AxisType.Auto,))
    x = np.random.default_rng(0).normal(size=(8, 300)).astype(np.float32)
    settings_ = np.full(8, 9, np.int32), np.full(8, 0.8, np.float32), np.zeros(8, np.float32)
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("tp")))
    np.testing.assert_array_equal(RUN["reference"](spread, *settings_), RUN["reference"](x, *settings_))


def test_images_keep_the_order() -> None:
    x = np.array([-np.inf, -3e38, -1.0, -1e-45, 0.0, 1e-45, 1.0, 3e38, np.inf], np.float32)
    images = np.asarray(image(jnp.asarray(x)))
    assert images[0] == LOWEST
    assert (np.diff(images.astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(value(jnp.asarray(images)), x)


def test_a_backend_that_the_op_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k has no 'cpu' implementation here; it has 'cuda', 'pallas'"):
        keep_top(jnp.zeros((1, 4)), jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.zeros(1), backend="cpu")
