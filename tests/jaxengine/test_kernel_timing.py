"""Timing of the ops: the cases are right about their work, nothing is left out of the timed program."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxengine.kernel_cases import OP_NAMES, Case, Sizes, cases
from jaxengine.kernel_timing import Floor, chain, measure, seconds

SIZES = Sizes(
    heads=4, kv_heads=2, head_dim=64, hidden=64, mlp=96, vocab=256, dtype="float32", experts=6, experts_per_token=2,
    expert_mlp=32, latent_rank=32, latent_rope=16, delta=(2, 4, 16), mamba=(2, 4, 8, 16),
)  # fmt: skip


@pytest.mark.parametrize("op", OP_NAMES)
def test_every_op_has_cases_that_run(op: str) -> None:
    for case in cases(SIZES, [op], tokens=(1, 16), contexts=(32,)):
        args = case.args()
        out = jax.tree.leaves(case.call(*args, backend="reference"))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in out if jnp.issubdtype(leaf.dtype, jnp.floating)) or (
            op == "top_k"  # -inf where nothing is cut
        )
        for new, old in zip(out[: case.carried], args, strict=False):
            assert (new.shape, new.dtype) == (old.shape, old.dtype)
        assert case.bytes > 0


def test_work_of_attention_and_products() -> None:
    decode, _ = cases(SIZES, ["paged_attention"], tokens=(8,), contexts=(32,))
    assert (decode.what, decode.bytes, decode.flops) == ("8 x 32", 2 * 8 * 32 * 2 * 64 * 4, 0)
    *_, prompt = cases(SIZES, ["paged_attention"], tokens=(16,), contexts=())
    assert (prompt.what, prompt.flops) == ("16 new of 16", 4 * (16 * 17 / 2) * 4 * 64)
    latents, _ = cases(SIZES, ["latent_attention"], tokens=(8,), contexts=(32,))
    assert (latents.bytes, latents.flops) == (8 * 32 * 48 * 4, 2 * 8 * 32 * 4 * (48 + 32))
    qkv = next(cases(SIZES, ["matmul"], tokens=(2,), contexts=()))
    assert qkv.flops == 2 * 2 * (8 * 64) * 64
    (few,) = cases(SIZES, ["grouped_matmul"], tokens=(1,), contexts=())
    assert few.flops == 2 * 2 * 3 * 32 * 64
    assert few.bytes == (2 * 3 * 32 * 64 + 2 * 64) * 4  # of the two experts it goes through


def test_work_of_recurrences() -> None:
    rows, prompt = cases(SIZES, ["gated_delta"], tokens=(8,), contexts=())
    assert (rows.what, prompt.what) == ("8 x 1", "1 x 8")
    inputs = 8 * 2 * (2 * 16 + 2 * 16) * 4
    assert (rows.bytes, prompt.bytes) == (8 * 2 * 4 * 4 * 16 * 16 + inputs, 2 * 4 * 4 * 16 * 16 + inputs)


def test_rates_are_of_what_limits() -> None:
    floor = Floor(bytes_per_second=1e12, flops_per_second=1e14)
    reading = Case("op", "", lambda: None, tuple, bytes=1e9, flops=1e9)
    assert floor.beside(reading, 2e-3) == {"TB/s": pytest.approx(0.5), "floor": pytest.approx(0.5)}
    computing = Case("op", "", lambda: None, tuple, bytes=1e6, flops=1e12)
    assert floor.beside(computing, 0.02) == {"TFLOP/s": pytest.approx(50), "floor": pytest.approx(0.5)}


def test_every_call_of_a_chain_runs() -> None:
    """The compiled loop sorts in each of its turns, though each gives the same."""
    compiled = jax.jit(chain(jnp.sort, 49)).lower((jnp.ones(16),)).compile().as_text()
    [loop] = re.findall(r" while\(.*body=%?([\w.-]+)", compiled)
    [body] = re.findall(rf"^%?{re.escape(loop)} .*?^}}", compiled, re.M | re.S)
    assert " sort(" in body
    assert '"known_trip_count":{"n":"49"}' in compiled


def test_what_a_call_gives_may_be_the_next_ones_input() -> None:
    [first], more = jax.jit(chain(lambda x: (x + 1, x), 3, carried=1))((jnp.int32(0),))
    assert (int(first), [int(x) for x in more]) == (4, [3])


def test_seconds_are_of_one_call() -> None:
    assert 0 < seconds(lambda x: x @ x, (jnp.ones((16, 16)),), 9) < 1


def test_measure() -> None:
    rows = list(measure(SIZES, ["gumbel_argmax"], tokens=(2,), contexts=(), repeats=2, floor=Floor(1e10, 1e11)))
    assert {"reference"} <= {row["backend"] for row in rows} <= {"reference", "cpu"}  # Pallas would be interpreted
    assert all(row["us"] > 0 and row["floor"] > 0 and row["case"] == "2 rows" for row in rows)
