"""The CPU kernel of paged attention against the float64 specification, and to the bit against itself in other
company."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from pallas_kernels.paged_attention import paged_attention
from tests.pallas_kernels.ragged import Batch, make_batch, specification


@functools.cache
def attention(**static: object) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(paged_attention, backend="cpu", **{"scale": 0.11, **static}))  # type: ignore[arg-type]


def check(batch: Batch, *, dtype: jnp.dtype = jnp.float32, sinks: np.ndarray | None = None, **static: object) -> None:
    static = {"scale": 0.11, "decode_only": False, **static}
    more = {} if sinks is None else {"sinks": jnp.asarray(sinks)}
    got = attention(**static)(*batch.arrays(dtype), **more)
    assert got.dtype == dtype
    want = specification(batch, **static, sinks=sinks)  # type: ignore[arg-type]
    atol = 2e-5 if dtype == jnp.float32 else 5e-2
    np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=atol, rtol=0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"),
    [(2, 2, 64), (8, 2, 80), (8, 1, 128), (16, 1, 96), (6, 2, 32), (4, 2, 256), (3, 1, 72), (64, 1, 8)],
)
def test_head_groups_and_dims(heads: int, kv_heads: int, head_dim: int, dtype: jnp.dtype) -> None:
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    check(make_batch([1, 1, 9, 40], [33, 1, 9, 70], tokens=60, **shape), dtype=dtype)


@pytest.mark.parametrize("page", [1, 8, 16, 20, 32, 64, 128])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (1, None), (16, 5.0), (37, None), (None, 50.0)])
def test_page_sizes_windows_and_caps(page: int, window: int | None, softcap: float | None) -> None:
    check(make_batch([1, 1, 50, 3], [300, 20, 180, 280], tokens=64, page=page), window=window, softcap=softcap)


@pytest.mark.parametrize(("window", "decode_only"), [(None, False), (16, False), (None, True)])
def test_sinks(window: int | None, decode_only: bool) -> None:
    queries, contexts = ([1] * 4, [700, 5, 1, 0]) if decode_only else ([1, 1, 50, 3], [700, 20, 180, 280])
    sinks = np.array([-30, -1, 0, 1, 3, 12], np.float32)
    batch = make_batch(queries, contexts, heads=6, kv_heads=2)
    check(batch, window=window, decode_only=decode_only, sinks=sinks)


def test_dead_rows_and_unowned_tokens_give_zeros() -> None:
    """And what freed pages hold, NaN here, leaks nowhere."""
    for queries, contexts in (([1, 5, 0, 0], [7, 5, 0, 0]), ([0] * 4, [0] * 4), ([11, 0, 2, 0], [31, 0, 9, 0])):
        check(make_batch(queries, contexts, tokens=20, capacity=64))
    for contexts in ([64, 1, 1290, 128, 0], [0, 0, 129, 0, 700], [0, 0, 0, 0, 0]):
        for window in (None, 40):
            check(make_batch([1] * 5, contexts, capacity=1300), decode_only=True, window=window)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("window", [None, 45])
@pytest.mark.parametrize("page", [16, 20])
def test_a_token_is_the_same_to_the_bit_in_any_company(page: int, window: int | None, dtype: jnp.dtype) -> None:
    """Alone or beside others, by a decode-only or a mixed program, its prompt whole or in chunks."""
    attend = attention(decode_only=False, window=window, softcap=30.0)
    batch = make_batch([1, 1, 90, 33, 1], [300, 5, 230, 33, 64], tokens=130, page=page, seed=3)
    q, kv, table, start, context, decode = batch.arrays(dtype)
    whole = attend(q, kv, table, start, context, decode)
    alone = attention(decode_only=True, window=window, softcap=30.0)(
        q[:2], kv, jnp.pad(table[:2], ((0, 0), (0, 50))), start[:3], context[:2], jnp.int32(2)
    )
    np.testing.assert_array_equal(whole[:2], alone)
    for first, last in ((0, 1), (1, 3), (3, 34), (34, 90)):
        length = last - first
        chunk = attend(
            jnp.pad(q[2 + first : 2 + last], ((0, 5), (0, 0), (0, 0))), kv, table[2:3],
            jnp.array([0, length], jnp.int32), jnp.array([140 + last], jnp.int32), jnp.int32(0),
        )  # fmt: skip
        np.testing.assert_array_equal(whole[2 + first : 2 + last], chunk[:length])


def test_several_programs_at_once() -> None:
    """From threads, each on its own, and again and again: they share XLA's threads, and nobody waits."""
    batches = [make_batch([1] * 8, [40 * i + 1] * 8, capacity=400, seed=i) for i in range(8)]
    attend = attention(decode_only=True)
    alone = [np.asarray(attend(*batch.arrays())) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            for got, want in zip(
                pool.map(lambda batch: np.asarray(attend(*batch.arrays())), batches), alone, strict=True
            ):
                np.testing.assert_array_equal(got, want)


@pytest.mark.skipif(jax.device_count() < 8, reason="wants eight devices")
def test_inside_shard_map() -> None:
    """Eight devices, one kv head each, with a collective after each call, on one pool of threads."""
    batch = make_batch([1, 1, 30], [300, 20, 77], heads=16, kv_heads=8, tokens=40)
    mesh = jax.make_mesh((8,), ("tp",), axis_types=(AxisType.Auto,))

    def on_device(q: jax.Array, kv: jax.Array, *rows: jax.Array) -> jax.Array:
        for _ in range(5):
            out = paged_attention(q, kv, *rows, decode_only=False, scale=0.11, backend="cpu")  # type: ignore[arg-type]
            q = q + 0.0 * jax.lax.psum(out, "tp")
        return out

    heads, pages = P(None, "tp"), P(None, None, "tp")
    sharded = jax.jit(
        jax.shard_map(on_device, mesh=mesh, in_specs=(heads, pages, *[P()] * 4), out_specs=heads, check_vma=False)
    )
    np.testing.assert_allclose(sharded(*batch.arrays()), specification(batch, scale=0.11), atol=2e-5)
