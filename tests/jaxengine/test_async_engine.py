"""Many streams from one engine's thread: order, aborts, cancellation, failure, shutdown."""

import asyncio
import threading
from contextlib import aclosing

import pytest
from fake_engine import ANSWER, FakeEngine

from jaxengine.async_engine import AsyncEngine, EngineDeadError
from jaxengine.request import InvalidRequest, RequestOutputKind, SamplingParams

DELTA = SamplingParams(max_tokens=None, output_kind=RequestOutputKind.DELTA)


def run(test, **options):
    """Run a test coroutine with an engine, and end the engine."""

    async def inside():
        engine = FakeEngine(**options)
        async with AsyncEngine(engine) as running:
            await asyncio.wait_for(test(running, engine), 20)
        assert engine.closed
        assert not running._thread.is_alive()

    asyncio.run(inside())


async def text(engine, request_id, params=DELTA, prompt="the"):
    return "".join([output.outputs[0].text async for output in engine.generate(prompt, params, request_id)])


def test_many_streams():
    async def test(engine, fake):
        texts = await asyncio.gather(*(text(engine, str(number)) for number in range(20)))
        assert texts == [ANSWER] * 20
        assert fake.threads == {"engine"}
        assert not engine._streams

    run(test)


def test_invalid_requests_hurt_nobody():
    async def test(engine, fake):
        results = await asyncio.gather(
            text(engine, "a"), text(engine, "b", prompt=[10**6]), text(engine, "c", prompt=3.5), return_exceptions=True
        )
        assert results[0] == ANSWER
        assert isinstance(results[1], InvalidRequest)
        assert isinstance(results[2], InvalidRequest)
        assert not engine._streams

    run(test)


def test_an_id_runs_once():
    async def test(engine, fake):
        fake.gate.clear()
        first = asyncio.create_task(text(engine, "a"))
        await asyncio.sleep(0.01)
        with pytest.raises(InvalidRequest, match="already running"):
            await text(engine, "a")
        fake.gate.set()
        assert await first == ANSWER

    run(test)


def test_cancelling_aborts():
    async def test(engine, fake):
        async with aclosing(engine.generate("the", DELTA, "a")) as stream:
            async for _ in stream:
                break
        task = asyncio.create_task(text(engine, "b"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.call(lambda: None)  # the aborts were before this
        assert not fake.running
        assert await text(engine, "c") == ANSWER

    run(test)


def test_abort_ends_the_stream():
    async def test(engine, fake):
        async def collect():
            return [output async for output in engine.generate("the", DELTA, "a")]

        fake.gate.clear()
        collecting = asyncio.create_task(collect())
        await asyncio.sleep(0.01)  # the first step waits at the gate
        aborting = asyncio.create_task(engine.abort("a"))
        await asyncio.sleep(0.01)
        fake.gate.set()
        await aborting
        outputs = await collecting
        assert outputs[-1].finished
        assert len(outputs) == 2
        assert outputs[-1].outputs[0].finish_reason == "abort"
        await engine.abort(["unknown"])

    run(test)


def test_failure_reaches_everyone():
    async def test(engine, fake):
        fake.gate.clear()
        waiters = [asyncio.create_task(text(engine, str(number))) for number in range(3)]
        await asyncio.sleep(0.01)
        call = asyncio.create_task(engine.call(lambda: None))
        await asyncio.sleep(0.01)
        await engine.check_health()
        fake.gate.set()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        for result in results:
            assert isinstance(result, EngineDeadError)
            assert "the device is gone" in str(result)
            assert isinstance(result.__cause__, RuntimeError)
        with pytest.raises(EngineDeadError):
            await call
        assert engine.errored
        assert not engine.is_running
        for later in (text(engine, "x"), engine.call(lambda: None), engine.abort("x"), engine.check_health()):
            with pytest.raises(EngineDeadError):
                await later
        assert fake.closed

    run(test, fail_at=1)


def test_shutdown_ends_the_streams():
    async def test(engine, fake):
        fake.gate.clear()
        waiter = asyncio.create_task(text(engine, "a"))
        await asyncio.sleep(0.01)
        threading.Timer(0.05, fake.gate.set).start()
        await asyncio.to_thread(engine.shutdown)
        with pytest.raises(EngineDeadError, match="shut down"):
            await waiter
        assert not engine.errored
        assert engine.dead_error is not None

    run(test)


def test_calls_run_in_the_engines_thread():
    async def test(engine, fake):
        assert await engine.call(lambda: threading.current_thread().name) == "engine"
        assert await engine.reset_prefix_cache()
        with pytest.raises(ZeroDivisionError):
            await engine.call(lambda: 1 / 0)
        assert engine.is_running

    run(test)


def test_an_idle_engine_sleeps():
    async def test(engine, fake):
        await text(engine, "a")
        steps = fake.steps
        await asyncio.sleep(0.05)
        assert fake.steps == steps

    run(test)


def test_a_closed_loop_does_not_stop_the_others():
    fake = FakeEngine()
    engine = AsyncEngine(fake)
    fake.gate.clear()

    async def leave():
        stream = engine.generate("the", DELTA, "left")
        task = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.01)
        engine._streams["kept"] = engine._streams["left"]  # survives the generator's own clean-up
        task.cancel()

    asyncio.run(leave())
    fake.gate.set()
    assert asyncio.run(text(engine, "b")) == ANSWER
    engine.shutdown()
    assert not engine.errored


def test_long_texts_are_encoded_elsewhere():
    async def test(engine, fake):
        output = [output async for output in engine.generate("the " * 3000, DELTA, "a")][-1]
        assert output.finished

    run(test, max_model_len=20000)
