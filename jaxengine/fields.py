"""Named fields side by side in one packed vector: how the host's settings travel to the device in one transfer.

Used by batch.py (a step) and admission.py (a request that enters a slot).
"""

from __future__ import annotations

from collections.abc import Mapping


def lay_out(sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Field → (start, end), one after the other in the order given."""
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = (end, end := end + size)
    return offsets
