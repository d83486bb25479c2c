"""Kill -9 of a server's engine in the middle of streams, again and again: every answer equals the undisturbed one.

    python -m benchmarks.engine_deaths [--deaths 10] [--streams 64] [--out results.json]

The demo model in an engine process as `jaxengine serve` has it; a third of the streams is greedy, a third seeded, a
third seeded with penalties and logprobs. Prints for each death how long the streams stood still.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import signal
import time
from pathlib import Path
from typing import Any

from jaxengine import EngineClient, EngineConfig, SamplingParams
from jaxengine.engine_tokenizer import engine_tokenizer
from jaxengine.supervisor import EngineSupervisor


def params(number: int) -> SamplingParams:
    kinds: tuple[dict[str, Any], ...] = (
        {"temperature": 0.0},
        {"seed": number},
        {"seed": number, "presence_penalty": 0.5, "repetition_penalty": 1.1, "top_k": 30, "logprobs": 1},
    )
    return SamplingParams(max_tokens=100 + number, ignore_eos=True, **kinds[number % 3])


async def stream(client: EngineClient, number: int, arrivals: list[float]) -> tuple[str, list[int]]:
    """The text and the tokens; each token must come once."""
    tokens: list[int] = []
    async for output in client.generate(f"Number {number}:", params(number), f"{number}-{time.time()}"):
        completion = output.outputs[0]
        new = len(completion.token_ids) - len(tokens)  # several when this process was too busy to take them
        assert new > 0
        assert list(completion.token_ids[:-new]) == tokens
        tokens = list(completion.token_ids)
        arrivals += [time.monotonic()] * new
    return completion.text, tokens


async def run(deaths: int, streams: int) -> dict[str, Any]:
    config = EngineConfig(use_tqdm_on_load=False)
    with EngineSupervisor(config) as supervisor:
        client = await EngineClient.connect(supervisor.address, engine_tokenizer(config))
        undisturbed = await asyncio.gather(*(stream(client, number, []) for number in range(streams)))
        results: list[dict[str, Any]] = []
        for death in range(deaths):
            arrivals: list[float] = []
            running = asyncio.gather(*(stream(client, number, arrivals) for number in range(streams)))
            while len(arrivals) < streams * (5 + 8 * death):  # at another place each time
                await asyncio.sleep(0.002)
            assert supervisor.process is not None
            os.kill(supervisor.process.pid, signal.SIGKILL)
            answers = await running
            pause = max(b - a for a, b in itertools.pairwise(arrivals))
            results.append({"equal": answers == undisturbed, "longest_pause_s": pause})
            print(f"death {death + 1}: equal {answers == undisturbed}, longest pause {pause:.2f} s", flush=True)
        await client.close()
    return {"date": time.strftime("%Y-%m-%d"), "cpu": platform.processor(), "streams": streams, "deaths": results}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deaths", type=int, default=10)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = asyncio.run(run(arguments.deaths, arguments.streams))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))
