"""What stands between an expert's two products. Used by reference.py and kernel.py, in float32."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class ClampedSwiglu:
    """(up + 1) · gate · sigmoid(alpha · gate), gate at most `limit` and up within ±limit: that of gpt-oss."""

    alpha: float = 1.702
    limit: float = 7.0


Activation = str | ClampedSwiglu  # a name: f(gate) · up

NAMES = ("silu", "swish", "gelu", "gelu_pytorch_tanh", "relu")


def is_known(activation: Activation) -> bool:
    return isinstance(activation, ClampedSwiglu) or activation in NAMES


def gated(gate: Array, up: Array, activation: Activation) -> Array:
    """Elementwise, of any shape."""
    if isinstance(activation, ClampedSwiglu):
        gate = jnp.minimum(gate, activation.limit)
        up = jnp.clip(up, -activation.limit, activation.limit)
        return (up + 1) * gate * jax.nn.sigmoid(activation.alpha * gate)
    match activation:
        case "silu" | "swish":
            return jax.nn.silu(gate) * up
        case "gelu":
            return 0.5 * gate * (1 + _erf(gate * 0.5**0.5)) * up
        case "gelu_pytorch_tanh":
            return jax.nn.gelu(gate, approximate=True) * up
        case _:
            return jnp.maximum(gate, 0.0) * up


def _erf(x: Array) -> Array:
    """The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26): Triton's lowering has none."""
    t = 1 / (1 + 0.3275911 * jnp.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return jnp.sign(x) * (1 - series * jnp.exp(-x * x))
