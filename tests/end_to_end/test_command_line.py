"""The command as a user runs it: a process of its own, the packaged model."""

import json
import subprocess
import sys

import pytest

from serving.commands.bench.startup import run_child

SMALL = ["--max-model-len", "128", "--max-num-seqs", "2", "--max-num-batched-tokens", "32", "--enforce-eager"]


@pytest.mark.slow
def test_generate(tmp_path):
    command = [sys.executable, "-m", "serving.cli", "generate", "demo", "--prompt", "Hello", "--json", "--quiet"]
    command += [*SMALL, "--max-tokens", "4", "--ignore-eos", "--compilation-cache-dir", "off"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    output = json.loads(result.stdout)
    assert output["prompt"] == "Hello"
    assert len(output["outputs"][0]["token_ids"]) == 4


@pytest.mark.slow
def test_a_measured_start():
    phases = run_child({"model": "demo", "max_num_seqs": 2, "max_num_batched_tokens": 32, "enforce_eager": True}, "off")
    assert {"startup", "import", "load", "compile", "ready"} <= set(phases)
    parts = {name: seconds for name, seconds in phases.items() if name not in ("startup", "load")}
    assert sum(parts.values()) == pytest.approx(phases["startup"], rel=0.2)  # weights load beside the compilation
