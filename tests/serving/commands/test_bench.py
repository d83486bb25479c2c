"""The measurements: workloads, definitions, lines and JSON keys are vLLM's."""

import json

import pytest
import tiny_tokenizers

from serving.commands.bench import startup
from serving.commands.bench.datasets import random_samples, sharegpt_samples
from serving.commands.bench.report import percentiles


def test_percentiles():
    assert percentiles([0.0, 1.0]) == {"10": 0.1, "25": 0.25, "50": 0.5, "75": 0.75, "90": 0.9, "99": 0.99}


def test_random_samples():
    samples = random_samples(20, input_len=10, output_len=5, vocab_size=50, special_ids=frozenset([3]), prefix_len=4)
    assert {len(sample.prompt_token_ids) for sample in samples} == {14}
    assert {sample.output_len for sample in samples} == {5}
    assert len({tuple(sample.prompt_token_ids[:4]) for sample in samples}) == 1
    assert len({tuple(sample.prompt_token_ids) for sample in samples}) == 20
    assert not any(3 in sample.prompt_token_ids for sample in samples)
    assert samples == random_samples(
        20, input_len=10, output_len=5, vocab_size=50, special_ids=frozenset([3]), prefix_len=4
    )
    lengths = {
        len(s.prompt_token_ids) for s in random_samples(200, input_len=10, output_len=5, vocab_size=50, range_ratio=0.5)
    }
    assert (min(lengths), max(lengths)) == (5, 15)


def test_sharegpt_samples(tmp_path):
    def talk(*values):
        return {"conversations": [{"from": "human", "value": value} for value in values]}

    short, good, lonely = talk("a", "b"), talk("the quick brown fox", "jumps over the dog"), talk("only one turn")
    (tmp_path / "s.json").write_text(json.dumps([short, good, lonely, talk("x" * 9000, "the quick fox")]))
    tokenizer = tiny_tokenizers.make()
    samples = sharegpt_samples(tmp_path / "s.json", 3, tokenizer)
    assert [sample.prompt_token_ids for sample in samples] == [tokenizer.encode("the quick brown fox")] * 3
    assert samples[0].output_len == len(tokenizer.encode("jumps over the dog"))
    assert sharegpt_samples(tmp_path / "s.json", 1, tokenizer, output_len=7)[0].output_len == 7
    (tmp_path / "s.json").write_text("[]")
    with pytest.raises(ValueError, match="no conversation"):
        sharegpt_samples(tmp_path / "s.json", 3, tokenizer)


@pytest.mark.parametrize("mode", [[], ["--async-engine"], ["--disable-detokenize"]])
def test_throughput(invoke, built, tmp_path, mode):
    options = ["--num-prompts", 5, "--input-len", 8, "--random-output-len", 6, "--n", 2, *mode]
    result = invoke("bench", "throughput", *options, "--output-json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Throughput: ")
    assert lines[0].endswith("output tokens/s")
    assert lines[1:] == ["Total num prompt tokens:  40", "Total num output tokens:  60"]
    results = json.loads((tmp_path / "r.json").read_text())
    assert set(results) == {
        "elapsed_time", "num_requests", "total_num_tokens", "requests_per_second", "tokens_per_second",
    }  # fmt: skip
    assert results["total_num_tokens"] == 100
    assert results["tokens_per_second"] == pytest.approx(100 / results["elapsed_time"])
    params = built[0][1].seen[0][2]
    assert (params.ignore_eos, params.temperature, params.detokenize) == (True, 1.0, mode != ["--disable-detokenize"])


def test_throughput_needs_the_file(invoke, built):
    assert invoke("bench", "throughput", "--dataset-name", "sharegpt").exit_code == 2


@pytest.mark.parametrize("beams", [False, True])
def test_latency(invoke, built, tmp_path, beams):
    options = ["--input-len", 4, "--output-len", 3, "--batch-size", 2, "--num-iters-warmup", 1, "--num-iters", 3]
    options += ["--use-beam-search", "--n", 2] if beams else []
    result = invoke("bench", "latency", *options, "--output-json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert "Avg latency: " in result.stdout
    assert "99% percentile latency: " in result.stdout
    results = json.loads((tmp_path / "r.json").read_text())
    assert set(results) == {"avg_latency", "latencies", "percentiles"}
    assert len(results["latencies"]) == 3
    assert results["avg_latency"] == pytest.approx(sum(results["latencies"]) / 3)
    if not beams:
        assert len(built[0][1].seen) == 2 * 4


def test_startup(invoke, monkeypatch, tmp_path):
    caches, seconds = [], iter(range(1, 20))

    def run_child(engine, cache):
        assert engine == {"max_num_seqs": 2}
        caches.append(cache)
        run = float(next(seconds))
        return {
            "startup": run,
            "import": 0.5,
            "compile": 0.25,
            "programs": {"decode-1x1": {"trace": run, "compile": 3}},
        }

    monkeypatch.setattr(startup, "run_child", run_child)
    options = ["--num-iters-cold", 2, "--num-iters-warm", 2, "--max-num-seqs", 2]
    result = invoke("bench", "startup", *options, "--output-json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["cold_startup_times"] == [1.0, 2.0]
    assert results["warm_startup_times"] == [4.0, 5.0]  # the third one filled the cache
    assert results["avg_cold_startup_time"] == 1.5
    assert results["avg_warm_compilation_time"] == 0.25
    assert results["warm_startup_percentiles"]["50"] == 4.5
    assert len(set(caches[:2])) == 2
    assert len(set(caches[2:])) == 1
    assert "Avg cold import time: 0.50 seconds" in result.stdout
    assert results["cold_programs"] == {"decode-1x1": {"trace": 1.5, "compile": 3.0}}
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["decode-1x1", "1.50", "3.00"] in lines
    assert lines.count(["program", "trace", "compile"]) == 2


def test_a_start_that_fails_says_why():
    with pytest.raises(ValueError, match="no such directory"):
        startup.run_child({"model": "/nowhere"}, "off")


def test_kernels(invoke, monkeypatch, tmp_path):
    from jaxengine import kernel_timing

    monkeypatch.setattr(kernel_timing, "measure_floor", lambda dtype: kernel_timing.Floor(1e10, 1e11))
    options = ["--op", "gumbel_argmax", "--tokens", 1, "--tokens", 4, "--vocab-size", 128, "--repeats", 2]
    result = invoke("bench", "kernels", *options, "--output-json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "r.json").read_text())["kernels"]
    assert {(row["op"], row["case"]) for row in rows} == {("gumbel_argmax", "1 rows"), ("gumbel_argmax", "4 rows")}
    assert all({"backend", "us", "TB/s", "floor"} <= set(row) for row in rows)
    assert len(result.stdout.splitlines()) == 1 + len(rows)
    assert invoke("bench", "kernels", "--op", "fused_magic").exit_code == 2
