"""The CUDA kernel of prefill on a Hopper GPU, against the float64 specification; pages nobody owns hold NaN."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from pallas_kernels.backend import platform
from pallas_kernels.cuda import build
from pallas_kernels.paged_attention import cuda_prefill
from pallas_kernels.paged_attention.scoring import Scoring
from tests.pallas_kernels.ragged import Batch, make_batch, specification

HOPPER = platform() == "gpu" and build.architecture() == cuda_prefill.HOPPER and build.available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HOPPER, reason="no Hopper GPU, or no nvcc")]

MIXED = ([1, 1, 300, 7, 0], [1300, 1, 300, 515, 0])  # new tokens and contexts of each row
LONG = ([1, 200, 60], [5, 200, 777])


@pytest.mark.parametrize(
    "extras", [{}, {"window": 100}, {"softcap": 20.0}, {"sinks": True}, {"window": 64, "sinks": True}]
)
@pytest.mark.parametrize(("dtype", "atol"), [(ml_dtypes.bfloat16, 1.5e-2), (np.float16, 2e-3)])
def test_mixed(dtype: type, atol: float, extras: dict) -> None:
    check(MIXED, 8, 2, 128, 16, dtype, atol, **extras)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page", "extras"),
    [
        (1, 1, 64, 16, {}),
        (3, 1, 64, 16, {"window": 130}),
        (14, 2, 64, 32, {}),
        (16, 1, 80, 16, {}),
        (8, 2, 96, 32, {"softcap": 30.0}),
        (16, 8, 128, 64, {"window": 300}),
        (10, 2, 192, 16, {"window": 64}),
        (8, 1, 256, 16, {"softcap": 30.0}),
        (8, 4, 256, 64, {"sinks": True}),
    ],
)
def test_shapes(heads: int, kv_heads: int, head_dim: int, page: int, extras: dict) -> None:
    check(LONG, heads, kv_heads, head_dim, page, ml_dtypes.bfloat16, 1.5e-2, **extras)


@pytest.mark.parametrize(
    ("rows", "extras"),
    [
        (([40], [6000]), {"sinks": True}),
        (([40, 7], [3000, 100]), {}),
        (([40, 70, 7], [5000, 1000, 100]), {"window": 3000}),
    ],
)
@pytest.mark.parametrize("head_dim", [128, 192])
def test_long_contexts_are_split(head_dim: int, rows: tuple[list[int], list[int]], extras: dict) -> None:
    check(rows, 8, 2, head_dim, 16, ml_dtypes.bfloat16, 1.5e-2, **extras)


@pytest.mark.parametrize("thread_blocks", [3, 132])  # with few of them each goes on from tile to tile
@pytest.mark.parametrize("head_dim", [128, 256])
def test_many_short_rows_and_one_long(head_dim: int, thread_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "multiprocessors", lambda: thread_blocks)
    check(([13] * 30 + [500], [*range(13, 523, 17), 4000]), 8, 2, head_dim, 16, ml_dtypes.bfloat16, 1.5e-2)


def check(
    rows: tuple[list[int], list[int]], heads: int, kv_heads: int, head_dim: int, page: int, dtype: type, atol: float,
    *, window: int | None = None, softcap: float | None = None, sinks: bool = False,
) -> None:  # fmt: skip
    batch = make_batch(*rows, heads=heads, kv_heads=kv_heads, head_dim=head_dim, page=page, tokens=sum(rows[0]) + 37)
    q, pages = (a.astype(dtype).astype(np.float32) for a in (batch.q, batch.kv_pages))
    if window is not None:
        forget_pages_before(window, batch, pages, rows)
    batch = dataclasses.replace(batch, q=q, kv_pages=pages)
    scores = np.linspace(-2, 3, heads).astype(np.float32) if sinks else None
    arrays = batch.arrays(jnp.dtype(dtype))
    assert cuda_prefill.supports(arrays[0], arrays[1], None)
    got = jax.jit(
        lambda *arrays: cuda_prefill.attend(
            *arrays,
            sinks=None if scores is None else jnp.asarray(scores),
            scoring=Scoring(0.1, window, softcap),
            blocks=cuda_prefill.blocks(head_dim),
        )
    )(*arrays)
    finite = dataclasses.replace(batch, kv_pages=np.nan_to_num(batch.kv_pages))
    want = specification(finite, scale=0.1, window=window, softcap=softcap, sinks=scores)
    live = slice(batch.num_decode, None)
    np.testing.assert_allclose(np.asarray(got, np.float64)[live], want[live], atol=atol, rtol=0)


def forget_pages_before(window: int, batch: Batch, pages: np.ndarray, rows: tuple[list[int], list[int]]) -> None:
    """NaN in the pages that no new token of a row sees any more."""
    for s, (new, context) in enumerate(zip(*rows, strict=True)):
        gone = max(context - new - window + 1, 0) // pages.shape[3]
        pages[batch.page_table[s, :gone]] = np.nan
