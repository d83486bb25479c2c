"""Structured outputs with the packaged model: whatever is sampled, what ends is what was asked for."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import served_model

from jaxengine import LLM, InvalidRequest, SamplingParams, StructuredOutputsParams
from jaxengine.async_engine import AsyncEngine
from jaxengine.build import build_engine
from jaxengine.config import EngineConfig
from jaxengine.programs import Program
from jaxengine.request import CompletionOutput, RequestOutputKind

ENGINE: dict[str, Any] = {"model": "demo", **served_model.ENGINE}
PROMPT = "Who is it? Answer with JSON."
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colours": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
REGEX = r"[0-9]{1,3}(-[a-f]{2}){1,2}"
CHOICE = ["yes", "no", "not at all"]
TAG = {"structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}], "triggers": ["<f"]}


def is_valid(text: str) -> bool:
    jsonschema.validate(json.loads(text), SCHEMA)
    return True


def is_tagged(text: str) -> bool:
    return all(is_valid(part.partition("</f>")[0]) for part in text.split("<f>")[1:])


Constraint = tuple[dict[str, Any], Callable[[str], Any]]
CONSTRAINTS: dict[str, Constraint] = {
    "json": ({"json": SCHEMA, "disable_any_whitespace": True}, is_valid),
    "regex": ({"regex": REGEX}, re.compile(REGEX).fullmatch),
    "choice": ({"choice": CHOICE}, CHOICE.__contains__),
    "grammar": ({"grammar": 'start: "a" ("," "b")*'}, re.compile("a(,b)*").fullmatch),
    "json_object": ({"json_object": True}, lambda text: isinstance(json.loads(text), dict)),
    "structural_tag": ({"structural_tag": TAG}, is_tagged),
}
OTHERS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "seed": {"seed": 3},
    "n": {"n": 3},
    "top": {"top_k": 5, "top_p": 0.9, "min_p": 0.01},
    "penalties": {"presence_penalty": 1.5, "frequency_penalty": 1.0, "repetition_penalty": 1.2},
    "logprobs": {"logprobs": 2, "prompt_logprobs": 1},
    "logit_bias": {"logit_bias": {97: 5.0, 98: -100.0}},
    "bad_words": {"bad_words": ["Anna", "blue"]},
    "min_tokens": {"min_tokens": 3},
    "ignore_eos": {"ignore_eos": True},
    "stop": {"stop": ["e", "9"], "include_stop_str_in_output": True},
    "stop_token_ids": {"stop_token_ids": [5, 6]},
    "special": {"skip_special_tokens": False},
    "uncached": {"skip_reading_prefix_cache": True},
    "deltas": {"output_kind": RequestOutputKind.DELTA},
}


def settings(constraint: dict[str, Any] | None, **others: Any) -> SamplingParams:
    return SamplingParams(**({"temperature": 2.0, "max_tokens": 70, "structured_outputs": constraint} | others))


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(**ENGINE) as llm:
        yield llm


def generate(llm: LLM, params: list[SamplingParams]) -> list[CompletionOutput]:
    outputs = llm.generate([PROMPT] * len(params), params, use_tqdm=False)
    return [completion for output in outputs for completion in output.outputs]


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_whatever_is_sampled_what_ends_is_what_was_asked_for(llm: LLM, name: str) -> None:
    constraint, holds = CONSTRAINTS[name]
    eos = llm.engine.eos_token_ids
    outputs = generate(llm, [settings(constraint, seed=seed, logit_bias=dict.fromkeys(eos, 4.0)) for seed in range(12)])
    ended = [output for output in outputs if output.finish_reason == "stop"]
    assert ended
    assert {output.finish_reason for output in outputs} <= {"stop", "length"}
    for output in ended:
        assert holds(output.text), output.text
        assert output.stop_reason is None


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_beside_every_other_parameter(llm: LLM, name: str) -> None:
    constraint, holds = CONSTRAINTS[name]
    params = [settings(constraint, **({"seed": 1} | others)) for others in OTHERS.values()]
    outputs = llm.generate([PROMPT] * len(params), params, use_tqdm=False)
    for other, output in zip(OTHERS, outputs, strict=True):
        for completion in output.outputs:
            assert completion.finish_reason in ("stop", "length"), other
            if completion.finish_reason == "stop" and completion.stop_reason is None:
                assert holds(completion.text.removesuffix("<|im_end|>")), (other, completion.text)
    by_name = dict(zip(OTHERS, (output.outputs for output in outputs), strict=True))
    assert len(by_name["n"]) == 3
    assert all(len(at) >= 2 for at in by_name["logprobs"][0].logprobs or ())


def test_the_output_ends_with_its_last_token(llm: LLM) -> None:
    """There is nothing that could follow: no step is spent on the end of the text, whatever else forbids it."""
    tokenizer, eos = llm.get_tokenizer(), min(llm.engine.eos_token_ids)
    constraint = {"choice": ["yes"]}
    others: list[dict[str, Any]] = [
        {},
        {"min_tokens": 9},
        {"ignore_eos": True},
        {"max_tokens": 2},
        {"bad_words": ["."]},
    ]
    others.append({"allowed_token_ids": [token for token in range(tokenizer.vocab_size) if token != eos]})
    for output in generate(llm, [settings(constraint, **other) for other in others]):
        assert (output.text, output.finish_reason, output.stop_reason) == ("yes", "stop", None)
        assert list(output.token_ids) == tokenizer.encode("yes", add_special_tokens=False)


def test_a_contradiction_ends_the_request_that_holds_it(llm: LLM) -> None:
    digits = llm.get_tokenizer().encode("7", add_special_tokens=False)
    good, bad = generate(llm, [settings({"choice": ["no"]}), settings({"choice": ["yes"]}, allowed_token_ids=digits)])
    assert (good.text, good.finish_reason) == ("no", "stop")
    assert bad.finish_reason == "error"


def test_raw_logprobs_are_the_models(llm: LLM) -> None:
    """The mask changes what is chosen, not what the model thought of it."""
    [free] = generate(llm, [SamplingParams(max_tokens=1, temperature=0.0, logprobs=20)])
    [bound] = generate(llm, [settings({"choice": ["Zebra"]}, max_tokens=1, temperature=0.0, logprobs=20)])
    assert free.logprobs is not None
    assert bound.logprobs is not None
    seen = {token: entry.logprob for token, entry in bound.logprobs[0].items() if token in free.logprobs[0]}
    assert len(seen) >= 20
    assert seen == pytest.approx({token: free.logprobs[0][token].logprob for token in seen}, abs=1e-5)
    assert bound.logprobs[0][bound.token_ids[0]].rank != 1


def test_processed_logprobs_know_the_mask() -> None:
    with LLM(**ENGINE, logprobs_mode="processed_logprobs") as llm:
        [output] = generate(llm, [settings({"choice": ["yes"]}, logprobs=0)])
    assert output.logprobs is not None
    chosen = [at[token].logprob for at, token in zip(output.logprobs, output.token_ids, strict=True)]
    assert chosen == [0.0] * len(chosen)  # there was no other way to write it


VARIED = [
    settings(constraint, seed=seed, max_tokens=30, **others)
    for seed, (constraint, others) in enumerate(
        [
            (CONSTRAINTS["json"][0], {}),
            (None, {}),
            (CONSTRAINTS["regex"][0], {"temperature": 0.0}),
            (CONSTRAINTS["json_object"][0], {"repetition_penalty": 1.3}),
            (None, {"temperature": 0.0, "ignore_eos": True}),
            (CONSTRAINTS["structural_tag"][0], {}),
            (None, {"logprobs": 1, "ignore_eos": True}),
            (CONSTRAINTS["json"][0], {}),
        ]
    )
]
PROMPTS = [f"{PROMPT} {'And then? ' * i}" for i in range(len(VARIED))]


@pytest.fixture(scope="module")
def alone(llm: LLM) -> list[str]:
    return [
        llm.generate(prompt, params, use_tqdm=False)[0].outputs[0].text
        for prompt, params in zip(PROMPTS, VARIED, strict=True)
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"async_scheduling": False},
        {"max_num_batched_tokens": 16, "max_num_seqs": 4},
        {"num_gpu_blocks_override": 16, "block_size": 8, "max_model_len": 112},
        {"num_scheduler_steps": 4, "max_num_seqs": 2},
        {"tensor_parallel_size": 2},
    ],
    ids=["in a crowd", "without the pipeline", "chunked", "preempted", "several steps a dispatch", "on two devices"],
)
def test_the_same_text_alone_and(alone: list[str], arguments: dict[str, Any]) -> None:
    with LLM(**(ENGINE | arguments)) as llm:
        llm.engine.scheduler.headroom = 0.0
        outputs = llm.generate(PROMPTS, VARIED, use_tqdm=False)
        again = llm.generate(PROMPTS, VARIED, use_tqdm=False)  # the prompts are cached now
        assert ("num_gpu_blocks_override" in arguments) == (llm.engine.scheduler.num_preemptions > 0)
    assert [output.outputs[0].text for output in outputs] == alone
    assert [output.outputs[0].text for output in again] == alone


def test_steps_without_a_grammar_run_the_plain_programs_and_nothing_compiles_after_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with LLM(**(ENGINE | {"enforce_eager": False})) as llm:
        runner, seen = llm.engine.runner, []
        program = runner._program

        def note(which: Program) -> Any:
            seen.append(which.full)
            return program(which)

        monkeypatch.setattr(runner, "_program", note)
        params = [settings(CONSTRAINTS["json"][0], max_tokens=12), settings(None, max_tokens=24, ignore_eos=True)]
        generate(llm, params)
        assert set(seen) == {True, False}
        seen.clear()
        monkeypatch.setattr(runner.masks, "of", lambda *_: pytest.fail("a mask travels"))
        generate(llm, params[1:] * 3)
        assert set(seen) == {False}


@pytest.mark.parametrize("constraint", [{"regex": "a["}, {"json": {"type": "fox"}}, {"grammar": "start: fox"}])
def test_what_cannot_be_compiled_is_refused(llm: LLM, constraint: dict[str, Any]) -> None:
    name = next(iter(constraint))
    for bad in (settings(constraint), settings(constraint, n=3)):
        with pytest.raises(InvalidRequest, match=rf"^structured_outputs\.{name}: "):
            llm.generate([PROMPT] * 3, [settings(None), bad, settings(None)], use_tqdm=False)
        assert not llm.engine.has_unfinished()
        assert llm.engine.scheduler.pool.usage == 0.0
    with pytest.raises(InvalidRequest, match="structured_outputs"):
        list(llm.stream(PROMPT, settings(constraint)))
    ids = llm.enqueue([PROMPT, PROMPT], [settings(None), settings(constraint)])
    assert len(ids) == 2
    with pytest.raises(InvalidRequest, match="structured_outputs"):
        llm.wait_for_completion(use_tqdm=False)
    assert generate(llm, [settings({"choice": ["yes"]})])[0].text == "yes"


def test_streams_of_one_engine_go_on_while_another_is_refused() -> None:
    async def texts() -> list[Any]:
        async with AsyncEngine(build_engine(EngineConfig(**ENGINE))) as engine:

            async def text(name: str, constraint: dict[str, Any] | None) -> str:
                params = settings(constraint, seed=1, output_kind=RequestOutputKind.DELTA)
                stream = engine.generate(PROMPT, params, name)
                return "".join([output.outputs[0].text async for output in stream])

            calls = [text("free", None), text("bad", {"regex": "("}), text("good", {"choice": CHOICE})]
            return await asyncio.gather(*calls, return_exceptions=True)

    free, bad, good = asyncio.run(texts())
    assert isinstance(free, str)
    assert isinstance(bad, InvalidRequest)
    assert good in CHOICE


def test_params_may_be_given_as_objects(llm: LLM) -> None:
    params = SamplingParams(max_tokens=8, structured_outputs=StructuredOutputsParams(choice=CHOICE))
    assert generate(llm, [params])[0].text in CHOICE


def test_the_examples_of_the_page_run() -> None:
    page = (Path(__file__).parents[2] / "docs" / "structured_outputs.md").read_text()
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(example.replace('LLM("demo"', 'LLM("demo", enforce_eager=True, compilation_cache_dir="off"'), names)
    names["llm"].close()
    jsonschema.validate(json.loads(names["output"].outputs[0].text), names["person"])
    assert 'Unimplemented keys: ["not"]' in page
