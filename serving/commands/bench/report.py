"""What the measurements share: percentiles and the JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PERCENTILES = (10, 25, 50, 75, 90, 99)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    return {str(p): float(np.percentile(values, p)) for p in PERCENTILES}


def write_json(file: Path | None, results: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(results, indent=4) + "\n", encoding="utf-8")
