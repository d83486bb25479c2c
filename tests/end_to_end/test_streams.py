"""The async engine with the packaged model: the same tokens as offline, aborts, and a failure that all hear of."""

import asyncio
from contextlib import aclosing

import pytest
from test_offline import ENGINE

from jaxengine import LLM, AsyncEngine, EngineConfig, EngineDeadError, RequestOutputKind, SamplingParams

PARAMS = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
PROMPTS = ["Hello", "The capital of Italy is", "One, two,", "A cat", "Why", "In the morning"]


async def last(engine, prompt, request_id, kind=RequestOutputKind.CUMULATIVE, **changes):
    params = PARAMS.clone(output_kind=kind, **changes)
    return [output async for output in engine.generate(prompt, params, request_id)][-1]


def test_streams():
    with LLM("demo", **ENGINE) as llm:
        expected = [output.outputs[0].text for output in llm.generate(PROMPTS, PARAMS, use_tqdm=False)]

    async def test():
        async with AsyncEngine.from_config(EngineConfig(model="demo", **ENGINE), progress=False) as engine:
            # all at once, more than run at a time
            outputs = await asyncio.gather(*(last(engine, prompt, prompt) for prompt in PROMPTS))
            assert [output.outputs[0].text for output in outputs] == expected

            # in deltas, while others leave early
            async def leave(number):
                params = PARAMS.clone(max_tokens=200, output_kind=RequestOutputKind.DELTA)
                async with aclosing(engine.generate(PROMPTS[number], params, f"leaves {number}")) as stream:
                    async for _ in stream:
                        return

            async def deltas(number):
                params = PARAMS.clone(output_kind=RequestOutputKind.DELTA)
                stream = engine.generate(PROMPTS[number], params, f"stays {number}")
                return "".join([output.outputs[0].text async for output in stream])

            texts = await asyncio.gather(*(deltas(n) for n in range(6)), *(leave(n) for n in range(6)))
            assert list(texts[:6]) == expected
            await engine.call(lambda: None)
            assert not engine.engine.has_unfinished()

            # an abort from elsewhere
            task = asyncio.create_task(last(engine, "Hello", "long", max_tokens=200))
            while not engine.engine.has_unfinished():
                await asyncio.sleep(0.01)
            await engine.abort("long")
            output = await task
            assert output.outputs[0].finish_reason == "abort"
            assert await engine.reset_prefix_cache()

            # the engine breaks
            engine.engine.runner.dispatch = None
            results = await asyncio.gather(*(last(engine, p, p) for p in PROMPTS), return_exceptions=True)
            assert all(isinstance(result, EngineDeadError) for result in results)
            with pytest.raises(EngineDeadError):
                await engine.check_health()

    asyncio.run(asyncio.wait_for(test(), 300))
