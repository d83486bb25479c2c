"""`jaxengine bench serve`: definitions by hand-made outcomes, and runs against the packaged model over HTTP."""

import asyncio
import json
import math
import re

import httpx
import numpy as np
import pytest
import tiny_tokenizers

from jaxengine import EngineConfig
from jaxengine.engine_tokenizer import engine_tokenizer
from serving.commands.bench.client import Outcome, Target, send
from serving.commands.bench.connections import Connections
from serving.commands.bench.datasets import Sample, prefix_repetition_samples
from serving.commands.bench.serve import workload
from serving.commands.bench.serve_options import ServeOptions
from serving.commands.bench.serving_numbers import DETAILS, numbers, table
from serving.commands.bench.texts import LocalTokens, Prompt, as_prompt
from serving.commands.bench.traffic import departures, run

ABOUT = {
    "date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate",
    "burstiness", "max_concurrency",
}  # fmt: skip
TOTALS = {
    "duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput",
    "request_goodput", "output_throughput", "total_token_throughput", "max_output_tokens_per_s",
    "max_concurrent_requests",
}  # fmt: skip


def test_numbers():
    good = Outcome(10, start=100.0, ttft=0.5, latency=2.5, itl=[1.0, 1.0], output_tokens=5, success=True)
    short = Outcome(20, start=101.0, ttft=0.25, latency=0.25, output_tokens=1, success=True)
    found = numbers(
        [good, Outcome(30, error="no"), short],
        4.0,
        goodput={"ttft": 300, "tpot": 500},
        metrics=["ttft", "tpot", "itl", "e2el"],
        percentiles=[50, 99.9],
    )
    assert (found["completed"], found["failed"]) == (2, 1)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (30, 6)
    assert (found["request_throughput"], found["output_throughput"], found["total_token_throughput"]) == (0.5, 1.5, 9)
    assert found["request_goodput"] == 0.25  # one token: its tpot counts as 0
    assert (found["mean_ttft_ms"], found["mean_tpot_ms"], found["mean_itl_ms"]) == (375, 500, 1000)
    assert (found["mean_e2el_ms"], found["std_e2el_ms"], found["p50_e2el_ms"]) == (1375, 1125, 1375)
    assert found["p99.9_tpot_ms"] == 500
    assert (found["max_output_tokens_per_s"], found["max_concurrent_requests"]) == (2, 2)
    assert (found["output_lens"], found["errors"]) == ([5, 0, 1], ["", "no", ""])
    assert set(found) > TOTALS | set(DETAILS)
    assert "P99.9 TPOT (ms):                         500.00    " in table(found, ["tpot"], [99.9])


def test_departures():
    assert not departures(3, math.inf).any()
    times = departures(1000, 50.0, seed=1)
    assert times[-1] == pytest.approx(20)
    assert (np.diff(times) >= 0).all()
    assert np.std(np.diff(departures(1000, 50.0, 100.0))) < np.std(np.diff(times)) / 5


def test_prefixes():
    samples = prefix_repetition_samples(
        11, prefix_len=5, suffix_len=3, num_prefixes=2, output_len=7, vocab_size=99, special_ids=frozenset([4])
    )
    assert [len(sample.prompt_token_ids) for sample in samples] == [8] * 10
    assert len({tuple(sample.prompt_token_ids[:5]) for sample in samples}) == 2
    assert len({tuple(sample.prompt_token_ids) for sample in samples}) == 10
    with pytest.raises(ValueError, match="2 prefixes"):
        prefix_repetition_samples(1, prefix_len=5, suffix_len=3, num_prefixes=2, output_len=7, vocab_size=99)


def test_texts_have_the_length_asked_for():
    tokenizer = tiny_tokenizers.make()
    tokens = LocalTokens(tokenizer)
    assert tokenizer.special_ids < tokens.left_out
    ids = [id for id in range(0, tokens.vocab_size, 3) if id not in tokens.left_out]
    prompt = as_prompt(Sample(ids, 3), tokens)
    assert prompt.num_tokens == len(tokenizer.encode(prompt.text, add_special_tokens=False)) == len(ids)


def test_no_random_prompt_is_found_in_the_prefix_cache():
    """As the server sees them: text, encoded by a tokenizer of 4,096 tokens, in pages of 16."""
    tokens = LocalTokens(engine_tokenizer(EngineConfig(model="demo")))

    def first_pages(num, seed):
        prompts = workload(ServeOptions(num_prompts=num, random_input_len=1024, seed=seed), tokens)
        encoded = tokens.tokenizer.encode_batch([prompt.text for prompt in prompts])
        assert {len(ids) for ids in encoded} == {prompt.num_tokens for prompt in prompts} == {1024}
        return [tuple(ids[:16]) for ids in encoded]

    pages = first_pages(1500, seed=0)
    assert len(set(pages)) == 1500
    assert first_pages(20, seed=0) == first_pages(20, seed=0)
    assert set(pages).isdisjoint(first_pages(200, seed=1))


async def pieces(chunks):
    for chunk in chunks:
        yield chunk


def answered(chunks, target=None, status=200):
    """The outcome of a request that a server answers with these pieces of bytes."""

    async def ask():
        transport = httpx.MockTransport(lambda request: httpx.Response(status, content=pieces(chunks)))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return await send(http, target or Target("/v1/completions", "m"), Prompt("a", 1, 2))

    return asyncio.run(ask())


CHUNK = b'data: {"choices": [{"index": 0, "text": "%b"}], "usage": null}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 9}}\n\ndata: [DONE]\n\n'


def test_streams_are_read_however_they_are_cut():
    whole = b": hello\r\n\r\n" + CHUNK % b"\xc3\xa9" + CHUNK.replace(b"\n", b"\r\n") % b"b" + CHUNK % b"" + USAGE
    for size in (1, 7, len(whole)):
        outcome = answered([whole[place : place + size] for place in range(0, len(whole), size)])
        assert (outcome.text, outcome.output_tokens, outcome.success) == ("éb", 9, True)
        assert len(outcome.itl) == 2
        assert outcome.latency == pytest.approx(outcome.ttft + sum(outcome.itl))


def test_only_in_chats_the_usage_moves_the_end():
    chunk = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "hi"}}]}\n\n'
    outcome = answered([chunk, USAGE], Target("/v1/chat/completions", "m", is_chat=True))
    assert (outcome.text, outcome.itl) == ("hi", [])
    assert outcome.latency > outcome.ttft
    outcome = answered([CHUNK % b"a", USAGE])
    assert outcome.latency == outcome.ttft


@pytest.mark.parametrize(
    ("chunks", "status", "word"),
    [
        ([b'{"error": {"message": "full"}}'], 429, "429: .*full"),
        ([CHUNK % b"a", b'data: {"error": {"message": "died"}}\n\n'], 200, "died"),
        ([USAGE], 200, "without a token"),
        ([b"data: {]\n\n"], 200, "cannot be read"),
    ],
)
def test_failures(chunks, status, word):
    outcome = answered(chunks, status=status)
    assert not outcome.success
    assert re.search(word, outcome.error)


def test_concurrency_is_bounded():
    running, most = 0, 0

    async def handle(request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return httpx.Response(200, content=pieces([CHUNK % b"a" + USAGE]))

    def open():
        return httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://x")

    async def measure(limit):
        async with Connections(open) as connections:
            done = await run(connections, Target("/", "m"), [Prompt("a", 1, 1)] * 6, np.zeros(6), limit, progress=False)
            assert len(connections.opened) == len(connections.idle) == (limit or 6)
            return done

    outcomes, seconds = asyncio.run(measure(2))
    assert most == 2
    assert seconds >= 0.03
    assert all(outcome.success and outcome.latency < 2 * seconds / 3 for outcome in outcomes)
    asyncio.run(measure(None))
    assert most == 6


SMALL = ["--num-prompts", 4, "--ignore-eos", "--disable-tqdm"]
RANDOM = [*SMALL, "--random-input-len", 12, "--random-output-len", 5]


@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
def test_against_a_server(invoke, served, tmp_path, backend):
    options = ["--backend", backend, "--base-url", f"{served.url}/v1", "--request-rate", 200, "--max_concurrency", 2]
    options += ["--goodput", "ttft:60000", "e2el:60000", "--percentile-metrics", "ttft,e2el"]
    options += ["--metric-percentiles", "50,99", "--save-detailed", "--result-dir", tmp_path]
    result = invoke("bench", "serve", *RANDOM, *options)
    assert result.exit_code == 0, result.output
    (file,) = tmp_path.iterdir()
    assert file.name.startswith(f"{backend}-200.0qps-concurrency2-demo-")
    found = json.loads(file.read_text())
    timed = {f"{kind}_{metric}_ms" for kind in ("mean", "median", "std", "p50", "p99") for metric in ("ttft", "e2el")}
    assert set(found) == ABOUT | TOTALS | set(DETAILS) | timed
    assert (found["completed"], found["failed"], found["total_output_tokens"]) == (4, 0, 20)
    assert found["total_input_tokens"] == 48
    assert found["request_goodput"] == found["request_throughput"]
    assert found["backend"] == backend
    assert found["output_lens"] == [5] * 4
    assert "Successful requests:                     4" in result.stdout
    assert "Request goodput (req/s):" in result.stdout


def test_the_servers_tokenizer_serves_as_well(invoke, serve, tmp_path):
    from serving.commands.bench import serve as command
    from serving.commands.bench.serve_options import ServeOptions
    from serving.commands.bench.texts import ServerTokens
    from serving.commands.remote import Remote

    url = serve(api_key=("secret",)).url
    sizes = {"prefix_repetition_num_prefixes": 2, "prefix_repetition_prefix_len": 6, "prefix_repetition_suffix_len": 4}
    options = ServeOptions(dataset_name="prefix_repetition", num_prompts=4, **sizes)
    with Remote(url, "secret") as remote:
        prompts = command.workload(options, ServerTokens(remote))
    assert [prompt.num_tokens for prompt in prompts] == [10] * 4
    flags = [word for name, value in sizes.items() for word in ("--" + name.replace("_", "-"), value)]
    flags += ["--dataset-name", "prefix_repetition", "--output-len", 3, "--base-url", url, "--api-key", "secret"]
    result = invoke("bench", "serve", *SMALL, *flags, "--save-result", "--result-filename", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "r.json").read_text())
    assert not set(found) & set(DETAILS)
    assert (found["total_output_tokens"], found["request_rate"], found["request_goodput"]) == (12, "inf", None)


def test_conversations(invoke, served, tmp_path):
    talk = {"conversations": [{"value": "the quick brown fox runs"}, {"value": "over the lazy dog again"}]}
    (tmp_path / "s.json").write_text(json.dumps([talk]))
    options = ["--base-url", served.url, "--dataset-name", "sharegpt", "--dataset-path", tmp_path / "s.json"]
    result = invoke("bench", "serve", *SMALL, *options, "--output-len", 4)
    assert result.exit_code == 0, result.output
    assert "Total generated tokens:                  16" in result.stdout


@pytest.mark.parametrize(
    "options",
    [
        ["--goodput", "speed:3"],
        ["--goodput", "ttft:fast"],
        ["ttft:3"],
        ["--percentile-metrics", "ttft,luck"],
        ["--metric-percentiles", "101"],
        ["--dataset-name", "sharegpt"],
        ["--num-prompts", 0],
        ["--request-rate", -1],
        ["--extra-body", "[]"],
    ],
)
def test_options_that_are_wrong(invoke, options):
    assert invoke("bench", "serve", *options).exit_code == 2


def test_a_server_that_is_not_there_or_refuses(invoke, served):
    result = invoke("bench", "serve", "--port", 9)
    assert (result.exit_code, "http://127.0.0.1:9" in result.stderr) == (1, True)
    result = invoke("bench", "serve", *RANDOM, "--base-url", served.url, "--extra-body", '{"top_p": 7}')
    assert (result.exit_code, "top_p" in result.stderr) == (1, True)
