"""The command itself: help, version, spellings, errors."""

import subprocess
import sys

import pytest

from serving.cli import dashed

COMMANDS = [
    "generate",
    "chat",
    "complete",
    "serve",
    "run-batch",
    "env",
    "bench serve",
    "bench latency",
    "bench throughput",
    "bench startup",
]


@pytest.mark.parametrize("command", ["", "bench", *COMMANDS])
def test_help(invoke, command):
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_spellings():
    assert dashed("--max_num_seqs") == "--max-num-seqs"
    assert dashed("--dtype=a_b") == "--dtype=a_b"
    assert dashed("--max_num_seqs=a_b") == "--max-num-seqs=a_b"
    assert dashed("a_b") == "a_b"
    assert dashed("--A sentence_with --words") == "--A sentence_with --words"


def test_version(invoke):
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output.startswith("jaxengine ")


def test_unknown_options_are_refused(invoke, built):
    assert invoke("generate", "m", "--prompt", "a", "--no-such-thing").exit_code == 2
    assert not built


def test_as_a_program():
    result = subprocess.run(
        [sys.executable, "-m", "serving.cli", "env", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0
    assert "what is missing" in result.stdout
