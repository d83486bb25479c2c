"""The requests of `bench serve` on their way: when each one leaves, and how many are under way at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import numpy as np

from serving.commands.bench.client import Outcome, Target, send
from serving.commands.bench.connections import Connections
from serving.commands.bench.texts import Prompt


def departures(num: int, rate: float, burstiness: float = 1.0, seed: int = 0) -> np.ndarray:
    """Seconds from the beginning to each request, [num]. The gaps are gamma distributed with shape `burstiness` (1 is
    a Poisson process, more is steadier), and scaled so that all take num / rate; at an infinite rate all leave at once.
    """
    if math.isinf(rate):
        return np.zeros(num)
    gaps = np.random.default_rng(seed).gamma(burstiness, 1 / (rate * burstiness), num)
    times = np.cumsum(gaps)
    return times * (num / rate / times[-1]) if times[-1] else times


async def run(
    connections: Connections,
    target: Target,
    prompts: Sequence[Prompt],
    times: np.ndarray,
    max_concurrency: int | None = None,
    progress: bool = True,
) -> tuple[list[Outcome], float]:
    """What became of every prompt, in their order, and the seconds until the last was done.

    A request that waits for others because of `max_concurrency` has not started: its clock stands still.
    """
    from tqdm import tqdm

    room: AbstractAsyncContextManager[object] = asyncio.Semaphore(max_concurrency) if max_concurrency else nullcontext()
    bar = tqdm(total=len(prompts), disable=not progress)

    async def one(prompt: Prompt) -> Outcome:
        async with room, connections.one() as http:
            outcome = await send(http, target, prompt)
        bar.update()
        return outcome

    start = time.perf_counter()
    tasks = []
    for prompt, at in zip(prompts, times, strict=True):
        if (wait := start + at - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(prompt)))
    outcomes = await asyncio.gather(*tasks)
    seconds = time.perf_counter() - start
    bar.close()
    return outcomes, seconds
