"""What the host decides for one step (Plan), and what comes back from it (Sampled).

The scheduler makes Plans; batch.py packs them into arrays, the runner dispatches them; the scheduler reads them again
when their tokens arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxengine.request import Request


@dataclass(slots=True)
class Row:
    """One request's part of a step: num_tokens tokens from position `start` on."""

    request: Request
    start: int
    num_tokens: int
    samples: bool  # a token is sampled after the last of them
    new_pages: Sequence[int]  # to be written into the slot's page table from index first_new_page on
    first_new_page: int
    admitted: bool  # first step in this slot; new_pages are then all its pages, those from the prefix cache included
    epoch: int  # request.epoch when planned: differs from it once the pages have been given up


@dataclass(slots=True)
class Plan:
    """One step. Rows of one token come first."""

    rows: list[Row]
    num_decode: int  # how many rows have one token
    num_tokens: int
    preempted: list[Request]


@dataclass(slots=True)
class Sampled:
    """A token that a request really got. `row` is its place in the plan (and in the step's outputs)."""

    request: Request
    token: int
    finish_reason: str | None
    stop_reason: int | None
    row: int
