"""What a token and a request cost between the engine and the client, with the model taken away.

    python -m benchmarks.serving_ceiling [--requests 512 --output-len 128] [--step-ms 5] [--out FILE]

Three processes: an engine whose core answers every request with one token a step and computes nothing, behind the
real socket; `jaxengine serve`'s HTTP worker; the client of `bench serve`. The numbers are processor time of each one
over tokens, which other work on the machine does not change much, and the rate that came out. A second, short run says
what a request costs beside its tokens. `--api-servers` and `--clients` start several.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.served import about, is_ready, processor_seconds, report
from jaxengine import EngineConfig
from jaxengine.engine_process import EngineServer
from jaxengine.engine_tokenizer import engine_tokenizer
from jaxengine.metrics import Metrics
from jaxengine.plan import Sampled
from jaxengine.request import InvalidRequest, Request, SamplingParams
from serving.commands.bench.serve import measure, workload
from serving.commands.bench.serve_options import ServeOptions
from serving.commands.bench.texts import LocalTokens
from serving.config import ServerConfig
from serving.http_server import event_loop, listen
from serving.worker import work

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all. "
ENGINE = EngineConfig(model="demo")  # for its tokenizer
MAX_MODEL_LEN = 1 << 16
Spawn = multiprocessing.get_context("spawn")


class EmptyCore:
    """The engine's core without a model: every running request gets the next token of TEXT, `seconds` apart."""

    def __init__(self, seconds: float) -> None:
        tokenizer = engine_tokenizer(ENGINE)
        assert tokenizer is not None
        self.tokens = tokenizer.encode(TEXT, add_special_tokens=False)
        self.seconds, self.next = seconds, 0.0
        self.max_model_len, self.sampling_defaults, self.startup = MAX_MODEL_LEN, dict[str, Any](), dict[str, float]()
        self.model_config = SimpleNamespace(vocab_size=tokenizer.vocab_size)
        self.config = SimpleNamespace(max_logprobs=20)
        self.eos_token_ids = frozenset([tokenizer.eos_token_id])
        self.memory = SimpleNamespace(table=lambda: "")
        self.metrics = Metrics(MAX_MODEL_LEN)
        self.requests: dict[str, Request] = {}
        self.scheduler = SimpleNamespace(requests=self.requests, max_num_seqs=4096, num_running=0, num_waiting=0)

    def validate(self, prompt_token_ids: list[int], params: SamplingParams) -> None:
        """Everything is well."""

    def check(self, params: SamplingParams) -> None:
        """As well."""

    def add(self, request: Request) -> None:
        request.scheduled_time = time.time()
        self.requests[request.request_id] = request

    def finish(self, request_id: str, reason: str) -> None:
        self.requests.pop(request_id, None)

    def has_unfinished(self) -> bool:
        return bool(self.requests)

    def take_refused(self) -> list[tuple[Request, InvalidRequest]]:
        return []

    def prove(self) -> None:
        """It is well."""

    def step(self) -> list[list[Sampled]]:
        time.sleep(max(self.next - time.perf_counter(), 0))
        self.next = time.perf_counter() + self.seconds
        sampled = []
        for request in list(self.requests.values()):
            place = request.num_output_tokens
            token = self.tokens[place % len(self.tokens)]
            request.token_ids.append(token)
            ended = place + 1 == request.params.max_tokens
            if ended:
                del self.requests[request.request_id]
            sampled.append(Sampled(request, token, "length" if ended else None))
        return [sampled]

    def close(self) -> None:
        """Nothing is open."""


def engine(address: str, seconds: float) -> None:
    EngineServer(EmptyCore(seconds), address).run(threading.Event())  # type: ignore[arg-type]


def api_server(listening: Any, address: str) -> None:
    config = ServerConfig(uds="inherited", disable_log_stats=True, enable_log_requests=False)
    work(listening, address, config, ENGINE, lambda loop, lost: None)


def client(port: int, seed: int, arguments: argparse.Namespace, output_len: int, results: Any) -> None:
    """Every share of the requests; tells (tokens that came, seconds)."""
    options = ServeOptions(
        port=port,
        num_prompts=arguments.requests // arguments.clients,
        random_input_len=arguments.input_len,
        random_output_len=output_len,
        max_concurrency=max(arguments.concurrency // arguments.clients, 1),
        seed=seed,
        ignore_eos=True,
        disable_tqdm=True,
        backend="openai-chat" if arguments.chat else "openai",
    )
    tokenizer = engine_tokenizer(ENGINE)
    assert tokenizer is not None
    prompts = workload(options, LocalTokens(tokenizer))
    results.put("ready")
    before = processor_seconds(os.getpid())
    with asyncio.Runner(loop_factory=event_loop) as runner:
        outcomes, seconds = runner.run(measure(options, "demo", prompts))
    assert all(outcome.success for outcome in outcomes), {outcome.error for outcome in outcomes}
    spent = processor_seconds(os.getpid()) - before
    results.put((sum(outcome.output_tokens or 0 for outcome in outcomes), seconds, spent))


def run(port: int, servers: dict[str, list[int]], arguments: argparse.Namespace, output_len: int) -> dict[str, Any]:
    """One run of the clients. servers: the process ids whose processor time is told, by name."""
    results = Spawn.Queue()
    clients = [
        Spawn.Process(target=client, args=(port, seed, arguments, output_len, results))
        for seed in range(arguments.clients)
    ]
    for process in clients:
        process.daemon = True
        process.start()
    for _ in clients:
        assert take(results, clients) == "ready"
    before = {name: sum(map(processor_seconds, pids)) for name, pids in servers.items()}
    told = [take(results, clients) for _ in clients]
    spent = {name: sum(map(processor_seconds, pids)) - before[name] for name, pids in servers.items()}
    for process in clients:
        process.join()
    tokens, seconds = sum(t for t, _, _ in told), max(s for _, s, _ in told)
    requests = arguments.requests // arguments.clients * arguments.clients
    return {
        "output_len": output_len,
        "requests_per_second": requests / seconds,
        "tokens_per_second": tokens / seconds,
        "processor_us_a_token": {name: s / tokens * 1e6 for name, s in spent.items()}
        | {"client": sum(s for _, _, s in told) / tokens * 1e6},
    }


def take(results: Any, clients: list[BaseProcess]) -> Any:
    while True:
        try:
            return results.get(timeout=1)
        except queue.Empty:
            assert not any(process.exitcode for process in clients), "a client has failed"


def start(target: Any, *arguments: Any) -> BaseProcess:
    process = Spawn.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--step-ms", type=float, default=5.0, help="0: as fast as the engine's process can")
    parser.add_argument("--api-servers", type=int, default=1)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--chat", action="store_true", help="/v1/chat/completions")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    processes: list[BaseProcess] = []
    with tempfile.TemporaryDirectory() as directory, listen(ServerConfig(host="127.0.0.1", port=0)) as listening:
        listening.listen(2048)
        port, address = listening.getsockname()[1], f"ipc://{directory}/engine"
        try:
            processes.append(start(engine, address, arguments.step_ms / 1e3))
            processes += [start(api_server, listening, address) for _ in range(arguments.api_servers)]
            wait_until_ready(port)
            servers = {"engine": [processes[0].pid or 0], "api_servers": [p.pid or 0 for p in processes[1:]]}
            print(f"processes {servers}", file=sys.stderr, flush=True)
            runs = [run(port, servers, arguments, length) for length in (2, arguments.output_len)]
        finally:
            for process in processes:
                process.terminate()
                process.join(10)
    results = about("serving_ceiling", runs=runs)
    report(results, arguments.out)


def wait_until_ready(port: int) -> None:
    end = time.monotonic() + 60
    while not is_ready(port):
        if time.monotonic() > end:
            sys.exit("the server does not become ready")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
