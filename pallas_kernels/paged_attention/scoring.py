"""How a query scores a key: what reference.py, decode.py and prefill.py must agree on."""

from dataclasses import dataclass

MASKED = -1e30  # a finite minus infinity: MASKED - MASKED is 0, not NaN


@dataclass(frozen=True)
class Scoring:
    """Static part of an attention: factor of q·k, keys a token sees (None: all before it), bound of a score."""

    scale: float
    window: int | None
    softcap: float | None
