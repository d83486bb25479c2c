"""CUDA sources compiled for Hopper, for the tests of what the compiler makes of them; needs nvcc and no GPU."""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pallas_kernels.cuda import build

Constants = dict[str, int | str]


def compile_without_spills(asked: Iterable[tuple[str, Constants]], cache: Path) -> list[str]:
    """What ptxas told of each source with its constants; no kernel of theirs may spill registers."""
    asked = list(asked)
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda call: build.library(*call, arch="90a", cache=cache), asked)
        told = [library.with_suffix(".log").read_text() for library in made]
    for log, (source, constants) in zip(told, asked, strict=True):
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
        assert set(spills) == {("0", "0")}, f"{source} {constants}"
    return told
