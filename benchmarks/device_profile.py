"""Where a device's time went: reads a jax profile, prints kernels by total time and the share of time that nothing ran.

A kernel that starts early runs beside the one in front of it, so times add up to more than there was. What they held up
does not: the time from each one's start to the next one's, in the last column.

python benchmarks/device_profile.py DIRECTORY [--top 25]
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path

from jax.profiler import ProfileData


def device_events(path: Path) -> list[tuple[str, float, float]]:
    """(kernel, start, end) in milliseconds of everything that ran on the first GPU's streams, by start."""
    events = []
    for plane in ProfileData.from_file(str(path)).planes:
        if plane.name.startswith("/device:GPU:0"):
            for line in plane.lines:
                if line.name.startswith("Stream"):
                    events += [(e.name, e.start_ns / 1e6, (e.start_ns + e.duration_ns) / 1e6) for e in line.events]
    return sorted(events, key=lambda event: event[1])


def idle(events: list[tuple[str, float, float]]) -> tuple[float, float]:
    """(milliseconds from first to last, of them with nothing running)."""
    gaps, end = 0.0, events[0][1]
    for _, start, stop in events:
        gaps += max(0.0, start - end)
        end = max(end, stop)
    return end - events[0][1], gaps


def summarise(path: Path, top: int) -> dict[str, float]:
    events = device_events(path)
    if not events:
        return {}
    # The middle half: a run's beginning and end are not its steady state.
    first, last = events[0][1], max(event[2] for event in events)
    low, high = first + (last - first) * 0.4, first + (last - first) * 0.95
    events = [event for event in events if low <= event[1] and event[2] <= high]
    total, nothing = idle(events)
    by_name: dict[str, list[float]] = defaultdict(list)
    held: dict[str, float] = defaultdict(float)
    for (name, start, stop), (_, following, _) in zip(events, [*events[1:], ("", high, high)], strict=True):
        short = re.sub(r"[._]?\d+(?=_|$|\.)", "", name)[:70]
        by_name[short].append(stop - start)
        held[short] += following - start
    print(f"{total:.1f} ms looked at, {nothing:.2f} ms idle = {nothing / total:.1%}, {len(events)} kernels")
    for name, times in sorted(by_name.items(), key=lambda item: -sum(item[1]))[:top]:
        spent = sum(times)
        each, alone = (ms / len(times) * 1e3 for ms in (spent, held[name]))
        print(f"{spent:9.2f} ms {spent / total:6.1%} {len(times):7d} x {each:8.1f} us {alone:8.1f} us  {name}")
    return {"idle_share": nothing / total, "kernels": len(events), "ms": total}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--top", type=int, default=25)
    arguments = parser.parse_args()
    for file in sorted(arguments.directory.rglob("*.xplane.pb")):
        summarise(file, arguments.top)
