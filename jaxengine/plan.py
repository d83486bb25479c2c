"""What the host decides for one step (Plan), and what comes back from it (Sampled).

The scheduler makes Plans; batch.py packs them into arrays, the runner dispatches them; the scheduler reads them again
when their tokens arrive, and makes of them what the output processor takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxengine.request import Request


@dataclass(slots=True)
class Row:
    """One request's part of a step: num_tokens tokens from position `start` on."""

    request: Request
    start: int
    num_tokens: int
    samples: int  # tokens sampled after the last of them: 0 before a prompt's end, up to the plan's num_steps
    new_pages: Sequence[int]  # to be written into the slot's page table
    places: Sequence[int]  # where each of them goes
    admitted: bool  # first step in this slot; new_pages are then all its pages, those from the prefix cache included
    epoch: int  # request.epoch when planned: differs from it once the pages have been given up
    restore: int | None = None  # kept recurrent state that its slot begins with (state_snapshots.py)
    save: int | None = None  # where the state behind its last token is to be kept


@dataclass(slots=True)
class Plan:
    """One dispatch: a step, or several in a row in which every row has one token. Rows of one token come first."""

    rows: list[Row]
    num_decode: int  # how many rows have one token
    num_tokens: int  # of the first step
    preempted: list[Request]
    num_steps: int = 1  # each step after the first feeds every row the token that it has just sampled


class TokenLogprobs(NamedTuple):
    """Logprobs at one position: column 0 is the token itself, then the k most likely, best first."""

    ids: np.ndarray  # [k+1] int
    values: np.ndarray  # [k+1] float
    rank: int  # of the token itself; 1 is the most likely


@dataclass(slots=True)
class Sampled:
    """A token that a request really got. `row` is its place in the plan (and in a step's outputs).

    The engine adds the logprobs that were asked for; `prompt_logprobs` come with the first token: one entry per prompt
    token after the first.
    """

    request: Request
    token: int
    finish_reason: str | None = None
    stop_reason: int | None = None
    row: int = 0
    complete: bool = False  # nothing can follow it in its grammar: it ends the output, but it is no stop token
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: Sequence[TokenLogprobs] | None = None
