"""Numbers of several processes that all of them can read: each writes the one at its own place.

The sequences that each HTTP process has let in (`admission.py`) are such numbers. `workers.py` makes them and hands the
file on to the processes that it starts.
"""

from __future__ import annotations

import mmap
import os

SIZE = 8  # bytes


class SharedCounts:
    """`own` is the number at `place`; writing it needs no lock."""

    def __init__(self, file: int, count: int, place: int = 0) -> None:
        """`file`: a descriptor that stays open as long as it is to be handed on; -1: nobody else has these numbers."""
        self.file, self.place = file, place
        self._numbers = memoryview(mmap.mmap(file, count * SIZE)).cast("q")

    @classmethod
    def make(cls, count: int) -> SharedCounts:
        """All of them 0, in memory that ends with its last user."""
        file = os.memfd_create("jaxengine-counts")
        os.ftruncate(file, count * SIZE)
        return cls(file, count)

    @property
    def own(self) -> int:
        return self._numbers[self.place]

    @own.setter
    def own(self, value: int) -> None:
        self._numbers[self.place] = value

    @property
    def total(self) -> int:
        return sum(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def clear(self, place: int) -> None:
        """Its process has died."""
        self._numbers[place] = 0
