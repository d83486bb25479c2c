"""Requests that nobody would write, tens of thousands of them, and what the server made of them.

    python -m benchmarks.serving_fuzz [--examples 1500] [--seed 13] [--workers 4] [--out results.json]

Starts `jaxengine serve demo` and lets schemathesis make requests from its OpenAPI document: every boundary of every
field (coverage), then `--examples` a operation (fuzzing). A server error, an answer that is not as documented, or none
within a minute is a failure; so is a request that is still there when all are over. tests/serving/test_fuzz.py is the
short form.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.served import Served, about, report, served

FLAGS = ["--max-model-len", "256", "--max-num-seqs", "32"]
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def fuzz(server: Served, arguments: argparse.Namespace) -> dict[str, Any]:
    before, start = server.resident_mb(), time.perf_counter()
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--checks", CHECKS]
    command += ["--phases", "coverage,fuzzing", "--max-examples", str(arguments.examples), "--no-color"]
    command += ["--seed", str(arguments.seed), "--workers", str(arguments.workers), "--request-timeout", "60"]
    command += ["--continue-on-failure", "--generation-database", "none"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    lines = done.stdout.splitlines()
    (beginning,) = [number for number, line in enumerate(lines) if " SUMMARY " in line] or [0]
    print("\n".join(lines[-200:]))
    statuses = answers(server)
    return {
        "passed": done.returncode == 0,
        "seconds": seconds,
        "requests": sum(statuses.values()),
        "statuses": statuses,
        "summary": [line.strip() for line in lines[beginning + 1 :] if line.strip()],
        "left": server.left(),
        "resident_mb": {"before": before, "after": server.resident_mb()},
    }


def answers(server: Served) -> dict[str, int]:
    """How often each status was given, but to the probes that waited for the start."""
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(server.metrics()):
        for sample in family.samples if family.name == "http_requests" else ():
            counts[sample.labels["status"]] += int(sample.value)
    return dict(sorted(counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with served("demo", FLAGS) as server:
        results = about("serving_fuzz", schemathesis=version("schemathesis"), server=FLAGS) | fuzz(server, arguments)
    report(results, arguments.out)
    sys.exit(0 if results["passed"] and not any(results["left"].values()) else 1)


if __name__ == "__main__":
    main()
