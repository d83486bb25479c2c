"""Python's cycle collector in processes that serve: it must not look through everything while streams wait.

`serving/worker.py` and `engine_process.py` call `settle` when they are ready. A process that answers HTTP spent a third
of its time in collections before, a fifth of a second in the longest; afterwards one hundredth, and 6 ms.
"""

from __future__ import annotations

import gc

THRESHOLDS = 20_000, 50, 20  # Python's 700, 10, 10 are passed several times a step of many rows


def settle() -> None:
    """What lives now lives to the end: it is never looked at again. What comes is looked at less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
