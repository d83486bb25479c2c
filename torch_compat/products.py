"""Linear layers of torch modules by our own products, with the RMS norm in front and the sum with a residual behind.

Modules call torch.nn.functional.linear; where our kernels take such a product (pallas_kernels/matmul) it becomes
theirs, as in native layers. On several devices it stays XLA's, which splits it as the weight lies. `module.py` calls
`adopt`; the rest happens under torch's operations, with what origins.py remembers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from jax import Array

from pallas_kernels.matmul import has_kernel, matmul
from torch_compat._torchax import jax_view, override, torch
from torch_compat.origins import Normed, Product, current


def adopt(model: torch.nn.Module) -> None:
    """From now on the model's RMS norms are noted."""
    for module in model.modules():
        if (eps := epsilon(module)) is not None:
            module.forward = functools.partial(_normed, module, eps)


def epsilon(module: Any) -> float | None:
    """The epsilon with which a module's forward is weight · x / √(mean(x²) + epsilon). None: it is something else.

    Not told by names but tried out, on a few random tokens, some as small as epsilon makes a difference for.
    """
    parameters = dict(module.named_parameters())
    plain = not list(module.children()) and not list(module.buffers())
    if not plain or list(parameters) != ["weight"] or parameters["weight"].ndim != 1:
        return None
    random = torch.Generator().manual_seed(0)
    weight = torch.rand(parameters["weight"].shape, generator=random) + 0.5
    tokens = torch.randn((4, len(weight)), generator=random) * torch.tensor([[0.3], [1.0], [3.0], [1000.0]])
    for eps in {value for value in vars(module).values() if isinstance(value, float) and 0 < value < 1}:
        x = tokens * math.sqrt(eps)
        expected = weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        try:
            got = torch.func.functional_call(module, {"weight": weight}, (x,))
        except Exception:  # whatever it is, it is not such a norm
            return None
        if isinstance(got, torch.Tensor) and got.shape == x.shape and torch.allclose(got, expected, rtol=1e-4, atol=0):
            return eps
    return None


def _normed(module: Any, eps: float, *arguments: Any, **keywords: Any) -> Any:
    """A norm's own forward, noted where it is called with tokens alone."""
    out, origins = type(module).forward(module, *arguments, **keywords), current()
    if origins is not None and len(arguments) == 1 and not keywords:
        array, tokens = jax_view(out), jax_view(arguments[0])
        if array.dtype == tokens.dtype:
            origins.note(array, Normed(tokens, jax_view(module.weight), eps))
    return out


def _transpose(own: Callable[..., Array], x: Array, first: int, second: int) -> Array:
    """aten.transpose. A norm of each head stays one when heads and tokens change places."""
    out, origins = own(x, first, second), current()
    normed = origins.find(x, Normed) if origins else None
    if origins and normed and x.ndim - 1 not in (first % x.ndim, second % x.ndim):
        origins.note(out, Normed(own(normed.x, first, second), normed.weight, normed.eps))
    return out


def _linear(own: Callable[..., Array], x: Array, weight: Array, bias: Array | None = None) -> Array:
    """torch.nn.functional.linear. x: [..., E], weight: [F, E], bias: [F] → [..., F]"""
    origins, norm = current(), None
    if origins is None or not origins.whole or weight.ndim != 2 or x.dtype != weight.dtype:
        return own(x, weight, bias)
    tokens = x.reshape(-1, x.shape[-1])
    if not has_kernel(tokens, weight, x.dtype):
        return own(x, weight, bias)
    if normed := origins.find(x, Normed):
        tokens, norm = normed.x.reshape(tokens.shape), (normed.weight, normed.eps)
    out = matmul(tokens, weight, norm=norm).reshape(*x.shape[:-1], -1)
    if bias is not None:
        return out + bias
    origins.note(out, Product(tokens, weight, norm))
    return out


def _add(own: Callable[..., Array], x: Any, y: Any, *, alpha: float = 1) -> Array:
    """aten.add of arrays or numbers."""
    origins = current()
    alike = isinstance(x, Array) and isinstance(y, Array) and (x.shape, x.dtype) == (y.shape, y.dtype)
    if origins and alike and alpha == 1:
        for out, residual in ((y, x), (x, y)):
            if made := origins.find(out, Product):
                rows = residual.reshape(len(made.x), -1)
                return matmul(made.x, made.weight, norm=made.norm, residual=rows).reshape(x.shape)
    return own(x, y, alpha=alpha)


override(torch.nn.functional.linear, _linear)
override(torch.ops.aten.linear, _linear)
override(torch.ops.aten.add.Tensor, _add)
override(torch.ops.aten.transpose.int, _transpose)
