"""The engine's real process: killed, hung or never ready, and what its clients and its supervisor make of that."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxengine import EngineClient, EngineConfig, EngineDeadError, InvalidRequest, SamplingParams
from jaxengine.engine_tokenizer import engine_tokenizer
from jaxengine.supervisor import EngineSupervisor

STREAMS = 64


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    return EngineConfig(compilation_cache_dir=str(tmp_path_factory.mktemp("programs")), use_tqdm_on_load=False)


@pytest.fixture(scope="module")
def supervisor(config: EngineConfig) -> Iterator[EngineSupervisor]:
    with EngineSupervisor(config, hang_seconds=5.0) as running:
        yield running


def params(number: int) -> SamplingParams:
    """Greedy, seeded, and with everything on."""
    kinds = (
        {"temperature": 0.0},
        {"seed": number},
        {"seed": number, "presence_penalty": 0.5, "top_k": 30, "logprobs": 1},
    )
    return SamplingParams(max_tokens=40 + number, ignore_eos=True, **kinds[number % 3])


async def answer(client: EngineClient, number: int, times: list[float] | None = None) -> tuple[str, list[int]]:
    seen: list[int] = []
    async for output in client.generate(f"Number {number}:", params(number), f"{number}-{time.time()}"):
        completion = output.outputs[0]
        assert list(completion.token_ids[: len(seen)]) == seen
        new = len(completion.token_ids) - len(seen)
        assert new > 0, "each token comes once, alone or with those that this machine was too busy to take"
        seen = list(completion.token_ids)
        if times is not None:
            times += [time.monotonic()] * new
    return completion.text, seen


async def everybody(client: EngineClient, times: list[float] | None = None) -> list[tuple[str, list[int]]]:
    return await asyncio.gather(*(answer(client, number, times) for number in range(STREAMS)))


def test_killed_in_the_middle_of_streams_nothing_is_lost(config: EngineConfig, supervisor: EngineSupervisor) -> None:
    async def test() -> None:
        client = await EngineClient.connect(supervisor.address, engine_tokenizer(config))
        assert config.max_model_len is None
        assert supervisor.config.max_model_len == client.max_model_len  # fixed for the engines to come
        undisturbed = await everybody(client)
        for how in (signal.SIGKILL, signal.SIGSTOP):  # died; hangs
            restarts, times = supervisor.num_restarts, []
            streams = asyncio.create_task(everybody(client, times))
            while len(times) < STREAMS * 20:
                await asyncio.sleep(0.005)
            assert not streams.done()
            os.kill(supervisor.process.pid, how)
            assert await streams == undisturbed
            assert supervisor.num_restarts == restarts + 1
            await client.check_health()
            assert client.metrics.num_requests_running.value == 0
        await client.close()

    asyncio.run(asyncio.wait_for(test(), 240))


def test_a_start_that_cannot_be(config: EngineConfig) -> None:
    supervisor = EngineSupervisor(EngineConfig(model="/no/such/model"))
    with pytest.raises((InvalidRequest, EngineDeadError), match="no/such/model"):
        supervisor.start()
    supervisor.stop()
    supervisor = EngineSupervisor(EngineConfig(max_model_len=10**9))
    with pytest.raises(InvalidRequest, match="max_model_len"):
        supervisor.start()
    supervisor.stop()


def test_an_engine_that_cannot_come_back(config: EngineConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its clients hear of it."""
    monkeypatch.setattr("jaxengine.supervisor.MOST_FAILED_STARTS", 2)

    async def test() -> None:
        supervisor = EngineSupervisor(config)
        await asyncio.to_thread(supervisor.start)
        client = await EngineClient.connect(supervisor.address, engine_tokenizer(config))
        loop = asyncio.get_running_loop()
        supervisor.on_lost = lambda error: loop.call_soon_threadsafe(client.fail, error)
        stream = asyncio.create_task(everybody(client))
        await asyncio.sleep(0.1)
        supervisor.config = EngineConfig(model="/no/such/model")
        os.kill(supervisor.process.pid, signal.SIGKILL)
        with pytest.raises(EngineDeadError, match="no/such/model"):
            await stream
        assert client.errored
        await client.close()
        await asyncio.to_thread(supervisor.stop)

    asyncio.run(asyncio.wait_for(test(), 120))
