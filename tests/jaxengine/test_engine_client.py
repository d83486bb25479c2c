"""The engine's process and its client: same answers as in one process, through refusals, deaths and hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers
import zmq
from fake_core import FakeCore

from jaxengine import wire
from jaxengine.client_streams import BEHIND
from jaxengine.engine_client import MOST_REPLAYS, EngineClient
from jaxengine.engine_errors import EngineDeadError
from jaxengine.engine_process import EngineServer
from jaxengine.request import InvalidRequest, RequestOutput, RequestOutputKind, SamplingParams

ANSWER = " fox – é stop the lazy dog."
PARAMS = SamplingParams(max_tokens=None)


class Served:
    """A server of a fake core in a thread; `replace` is the death of an engine and another in its place."""

    def __init__(self, address: str, **options: Any) -> None:
        self.address, self.options = address, options
        self.start()

    def start(self) -> None:
        self.core = FakeCore(ANSWER, **self.options)
        self.server = EngineServer(self.core, self.address)
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(self.server, self.ending), daemon=True)
        self.thread.start()

    @staticmethod
    def _run(server: EngineServer, ending: threading.Event) -> None:
        while not ending.is_set():
            if server.socket.poll(5) or server.core.has_unfinished():
                server.turn()
        server.close()

    def end(self) -> None:
        self.ending.set()
        self.thread.join()

    def replace(self) -> None:
        self.end()
        self.start()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path / 'engine'}"


def run(address: str, test: Callable[[EngineClient, Served], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def inside() -> None:
        served = Served(address, **options)
        client = await EngineClient.connect(address, tiny_tokenizers.make())
        try:
            await asyncio.wait_for(test(client, served), 30)
        finally:
            await client.close()
            served.end()

    asyncio.run(inside())


async def outputs(client: EngineClient, request_id: str, params: SamplingParams = PARAMS) -> list[RequestOutput]:
    return [output async for output in client.generate("the", params, request_id)]


async def text(client: EngineClient, request_id: str, params: SamplingParams = PARAMS) -> str:
    return (await outputs(client, request_id, params))[-1].outputs[0].text


def test_many_streams_of_two_clients(address: str) -> None:
    async def test(client: EngineClient, served: Served) -> None:
        other = await EngineClient.connect(address, client.tokenizer)
        everything = [text(each, str(number)) for number in range(20) for each in (client, other)]
        assert await asyncio.gather(*everything) == [ANSWER] * 40
        assert not client.streams.open
        assert not client.streams.sequences
        await client.check_health()
        await other.check_health()
        await client.check_health()  # what the other one counted has arrived by now
        assert client.metrics.generation_tokens.value == 40 * len(served.core.answer)
        await other.close()

    run(address, test)


def test_an_output_a_token_whatever_comes_at_once(address: str) -> None:
    async def test(client: EngineClient, served: Served) -> None:
        delta = SamplingParams(max_tokens=None, output_kind=RequestOutputKind.DELTA)
        got = await outputs(client, "a", delta)
        assert len(got) == len(served.core.answer)
        assert all(len(output.outputs[0].token_ids) == 1 for output in got)
        assert "".join(output.outputs[0].text for output in got) == ANSWER

    run(address, test, tokens_a_step=4)


def test_who_reads_too_slowly_gets_many_tokens_at_once(address: str) -> None:
    async def test(client: EngineClient, served: Served) -> None:
        served.core.answer *= 4
        for kind, logprobs in ((RequestOutputKind.DELTA, 1), (RequestOutputKind.CUMULATIVE, None)):
            params = SamplingParams(max_tokens=None, n=2, logprobs=logprobs, output_kind=kind)
            async with aclosing(client.generate("the", params, kind.name)) as stream:
                got = [await anext(stream)]
                while kind.name in client.streams.outputs:  # all are there, and nobody takes them
                    await asyncio.sleep(0.01)
                got += [output async for output in stream]
            delta, length = kind is RequestOutputKind.DELTA, len(served.core.answer)
            assert len(got) < BEHIND
            assert [output.finished for output in got] == [False] * (len(got) - 1) + [True]
            for index in range(2):
                mine = [each for output in got for each in output.outputs if each.index == index]
                assert ("".join(each.text for each in mine) if delta else mine[-1].text) == ANSWER * 4
                assert (sum(len(each.token_ids) for each in mine) if delta else len(mine[-1].token_ids)) == length
                assert not delta or sum(len(each.logprobs or ()) for each in mine) == length
                assert [each.finish_reason for each in mine] == [None] * (len(mine) - 1) + ["length"]

    run(address, test)


def test_stop_strings_end_a_sequence_here_and_there(address: str) -> None:
    async def test(client: EngineClient, served: Served) -> None:
        served.core.repeat = True
        output = (await outputs(client, "a", SamplingParams(max_tokens=None, stop=["lazy"])))[-1]
        assert output.outputs[0].text == " fox – é stop the "
        assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", "lazy")
        await served_is_idle(served)

    run(address, test, tokens_a_step=3)


async def served_is_idle(served: Served) -> None:
    while served.core.has_unfinished():
        await asyncio.sleep(0.01)


def test_closing_a_stream_ends_it_there(address: str) -> None:
    async def test(client: EngineClient, served: Served) -> None:
        served.core.repeat = True
        async with aclosing(client.generate("the", PARAMS, "a")) as stream:
            await anext(stream)
        await served_is_idle(served)
        task = asyncio.create_task(outputs(client, "b"))
        await asyncio.sleep(0.05)
        await client.abort("b")
        assert (await task)[-1].outputs[0].finish_reason == "abort"
        await served_is_idle(served)

    run(address, test)


def test_refusals_hurt_nobody(address: str) -> None:
    async def test(client: EngineClient, served: Served) -> None:
        results = await asyncio.gather(
            text(client, "a"),
            text(client, "b", SamplingParams(logit_bias={10**6: 1.0})),  # refused here
            text(client, "c", SamplingParams(logit_bias=dict.fromkeys(range(9), 1.0))),  # and by the engine
            return_exceptions=True,
        )
        assert results[0] == ANSWER
        assert [type(result) for result in results[1:]] == [InvalidRequest] * 2
        assert str(results[2]) == "logit_bias: 9 entries are too many; use fewer"
        assert client.metrics.request_success["abort"].value == 0
        with pytest.raises(InvalidRequest, match="already running"):
            await asyncio.gather(text(client, "d"), text(client, "d"))

    run(address, test)


@pytest.mark.parametrize("n", [1, 3])
def test_sequences_go_on_in_the_next_engine(address: str, n: int) -> None:
    async def test(client: EngineClient, served: Served) -> None:
        params = SamplingParams(max_tokens=None, n=n, logprobs=1)
        streams = [asyncio.create_task(outputs(client, str(number), params)) for number in range(5)]
        for _ in range(4):
            await asyncio.sleep(0.03)
            await asyncio.to_thread(served.replace)
        for stream in streams:
            last = (await stream)[-1]
            assert [completion.text for completion in last.outputs] == [ANSWER] * n
            assert [len(completion.logprobs or ()) for completion in last.outputs] == [len(served.core.answer)] * n
        await client.check_health()
        assert client.metrics.generation_tokens.value == 5 * n * len(served.core.answer)
        assert client.metrics.num_requests_running.value == 0

    run(address, test, seconds_a_step=0.01)


def test_a_request_that_every_engine_dies_of_is_given_up(address: str) -> None:
    async def test(client: EngineClient, served: Served) -> None:
        served.options["stuck"] = served.core.stuck = True
        stream = asyncio.create_task(outputs(client, "a"))
        for _ in range(MOST_REPLAYS + 1):
            epoch = client._epoch
            await asyncio.to_thread(served.replace)
            while client._epoch == epoch:
                await asyncio.sleep(0.02)
        assert (await stream)[-1].outputs[0].finish_reason == "error"
        assert not client.streams.sequences

    run(address, test)


@pytest.mark.parametrize("n", [1, 2])
def test_the_engine_knows_a_request_by_its_users_name(address: str, n: int) -> None:
    async def test(client: EngineClient, served: Served) -> None:
        served.core.stuck = True
        stream = asyncio.create_task(outputs(client, "the-id", SamplingParams(max_tokens=None, n=n)))
        while len(served.core.requests) < n:
            await asyncio.sleep(0.01)
        assert {request.user_request_id for request in served.core.requests.values()} == {"the-id"}
        served.core.stuck = False
        await stream

    run(address, test)


def test_a_client_that_understands_nothing_any_more_says_so(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(client: EngineClient, served: Served) -> None:
        served.core.repeat = True
        stream = asyncio.create_task(outputs(client, "a"))
        await asyncio.sleep(0.05)

        def read_in_client(message: bytes) -> wire.ToClient:
            raise ValueError("it is no message")

        monkeypatch.setattr(wire, "read_in_client", read_in_client)
        with pytest.raises(EngineDeadError, match="it is no message"):
            await stream
        assert client.errored
        assert not client.streams.outputs

    run(address, test)


def test_health_is_what_the_engine_can_do_now(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxengine.engine_client.SILENCE_SECONDS", 0.3)

    async def test(client: EngineClient, served: Served) -> None:
        await client.check_health()
        assert served.core.proofs == 1
        served.core.gate.clear()
        stream = asyncio.create_task(outputs(client, "a"))
        await asyncio.sleep(0.05)
        with pytest.raises(EngineDeadError, match="has not answered"):
            await client.check_health()
        served.core.gate.set()
        await stream
        await client.check_health()
        client.fail(RuntimeError("it burnt"))
        with pytest.raises(EngineDeadError, match="burnt"):
            await client.check_health()
        with pytest.raises(EngineDeadError, match="burnt"):
            await outputs(client, "b")

    run(address, test)


def test_sequences_of_a_client_that_died_are_ended(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxengine.engine_process.SILENT_SECONDS", 0.1)

    async def test(client: EngineClient, served: Served) -> None:
        served.core.repeat = True
        raw = zmq.Context.instance().socket(zmq.DEALER)
        raw.connect(address)
        add = wire.Add(client._epoch, 1, 0, wire.pack_ids([1]), b"", PARAMS, 0, 0, None, time.time())
        raw.send(wire.encode(add))
        while not served.core.has_unfinished():
            await asyncio.sleep(0.01)
        raw.close(0)
        await asyncio.sleep(0.3)
        served.server.forget_silent(time.monotonic())
        await served_is_idle(served)

    run(address, test)


def test_counters_do_not_fall_when_a_client_dies(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxengine.engine_process.SILENT_SECONDS", 0.1)

    async def test(client: EngineClient, served: Served) -> None:
        other = await EngineClient.connect(address, client.tokenizer)
        assert await text(other, "a") == ANSWER
        await other.check_health()  # tells what it has counted
        await other.close()
        await asyncio.sleep(0.2)
        for _ in range(2):
            served.server.forget_silent(time.monotonic())
            await client.check_health()
            assert client.metrics.generation_tokens.value == len(served.core.answer)

    run(address, test)


def test_the_prefix_cache_is_reset(address: str) -> None:
    async def test(client: EngineClient, served: Served) -> None:
        assert await client.reset_prefix_cache()
        assert served.core.resets == [False]

    run(address, test)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if "_run" in thread.name]
