"""`jaxengine serve` as a user runs it: a process, curl, config files, sockets, and the end."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
import yaml

from serving.commands import serve as command
from serving.config import ServerConfig

SMALL = ["--max-model-len", "256", "--max-num-seqs", "4", "--max-num-batched-tokens", "64", "--enforce-eager"]
SMALL += ["--dtype", "float32", "--compilation-cache-dir", "off", "--no-use-tqdm-on-load"]
RUN = "import typer; from serving.commands.serve import serve; app = typer.Typer(); app.command()(serve); app()"


@pytest.fixture
def asked(monkeypatch):
    """(ServerConfig, EngineConfig) of every run."""
    runs = []
    monkeypatch.setattr(command, "run", lambda *configs: runs.append(configs))
    return runs


@pytest.fixture
def run_serve():
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(command.serve)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


def test_options(asked, run_serve):
    result = run_serve(
        *("m", "--port", 1234, "--api-key", "a", "--api-key", "b", "--disable-log-requests", "--max-num-seqs", 3),
        *("--default-chat-template-kwargs", '{"x": 1}', "--queue-timeout", 2.5, "--no-enable-request-id-headers"),
    )
    assert result.exit_code == 0, result.output
    ((server, engine),) = asked
    assert server == ServerConfig(
        port=1234,
        api_key=("a", "b"),
        enable_log_requests=False,
        default_chat_template_kwargs={"x": 1},
        queue_timeout=2.5,
        enable_request_id_headers=False,
    )
    assert (engine.model, engine.max_num_seqs) == ("m", 3)


def test_a_config_file(asked, run_serve, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        yaml.dump({"model": "m", "served-model-name": ["a", "b"], "port": 1, "max_num_seqs": 5, "dtype": "float32"})
    )
    assert run_serve("--config", file, "--port", 2).exit_code == 0
    ((server, engine),) = asked
    assert server == ServerConfig(port=2, served_model_name=("a", "b"))
    assert (engine.model, engine.max_num_seqs, engine.dtype) == ("m", 5, "float32")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("prot: 1", "did you mean port"),
        ("port: many", "Expected `int`"),
        ("- a", "name: value"),
        ("a: [", "cannot be read"),
    ],
)
def test_config_files_that_are_wrong(asked, run_serve, tmp_path, text, word):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    result = run_serve("m", "--config", file)
    assert (result.exit_code, word in result.stderr) == (1, True)
    assert not asked


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--port", 70000], "65535"),
        (["--ssl-keyfile", "a"], "both or neither"),
        (["--queue-timeout", 0], "at least"),
        (["--api-key", ""], "empty"),
    ],
)
def test_options_that_are_wrong(asked, run_serve, arguments, word):
    result = run_serve("m", *arguments)
    assert (result.exit_code, word in result.stderr) == (1, True)


def test_without_a_model(asked, run_serve):
    assert run_serve("--port", 1).exit_code == 2


class Process:
    """A server process behind a Unix socket."""

    def __init__(self, socket, *options):
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        arguments = ["demo", "--uds", str(socket), "--log-format", "json", *SMALL, *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, *arguments], env=environment, stderr=subprocess.PIPE, text=True
        )
        self.http = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://x", timeout=60)
        self.lines = []
        threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True).start()
        end = time.monotonic() + 120
        while not self.ready():
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < end
            time.sleep(0.05)

    def ready(self):
        try:
            return self.http.get("/ready").status_code == 200
        except httpx.TransportError:
            return False


@pytest.mark.slow
def test_a_process(tmp_path):
    """curl, logs, and an end that waits for what runs, but not for ever."""
    server = Process(tmp_path / "socket", "--shutdown-timeout", "1", "--api-key", "secret")
    key = {"Authorization": "Bearer secret"}
    if shutil.which("curl"):
        ask = ["curl", "-sN", "--unix-socket", str(tmp_path / "socket"), "http://x/v1/completions"]
        ask += ["-H", "content-type: application/json", "-H", "authorization: Bearer secret"]
        ask += ["-d", '{"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0, "stream": true}']
        events = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split("\n\n")
        texts = [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events[:-2]]
        assert ("".join(texts), events[-2:]) == (" Paris. The", ["data: [DONE]", ""])

    def ask(max_tokens, answers):
        body = {"prompt": "x", "max_tokens": max_tokens, "ignore_eos": True, "temperature": 1, "n": 4, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body, headers=key) as answer:
            for line in answer.iter_lines():
                answers.append(line)

    answers = []
    thread = threading.Thread(target=ask, args=(250, answers))
    thread.start()
    while not answers:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    thread.join(20)
    assert server.process.wait(20) == 0
    assert answers[-2:] == ["data: [DONE]", ""]
    reasons = {json.loads(line[6:])["choices"][0]["finish_reason"] for line in answers[:-2] if line}
    assert reasons - {None} <= {"length", "abort"}
    assert reasons != {None}
    logged = [json.loads(line) for line in server.lines if line.startswith("{")]
    assert {"serving.http_server", "serving.front"} <= {line["logger"] for line in logged}
    assert not any("secret" in line for line in server.lines)


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Both answer, one of them dies and is replaced, and one speaks for both in the log."""
    server = Process(tmp_path / "socket", "--api-server-count", "2", "--log-stats-interval", "0.2")

    def workers():
        listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(server.process.pid)], capture_output=True)
        return [int(line.split()[0]) for line in listed.stdout.decode().splitlines() if "serving.worker" in line]

    def ask(seconds):
        end, statuses = time.monotonic() + seconds, set()
        while time.monotonic() < end:
            body = {"prompt": "x", "max_tokens": 2}
            transport = httpx.HTTPTransport(uds=str(tmp_path / "socket"), retries=3)
            with httpx.Client(transport=transport, base_url="http://x", timeout=60) as http:
                statuses.add(http.post("/v1/completions", json=body).status_code)
        return statuses

    first = workers()
    assert len(first) == 2
    assert ask(1) == {200}
    os.kill(first[1], signal.SIGKILL)
    end = time.monotonic() + 60
    while len(workers()) < 2 or first[1] in workers():
        assert time.monotonic() < end
        time.sleep(0.1)
    assert ask(1) == {200}
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    logged = [json.loads(line) for line in server.lines if line.startswith("{")]
    times = [line["time"] for line in logged if line["logger"] == "serving.logs"]
    assert times
    assert all(later > earlier for earlier, later in itertools.pairwise(times))


@pytest.mark.slow
def test_a_port_that_is_taken(tmp_path, run_serve):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run_serve("demo", "--host", "127.0.0.1", "--port", taken.getsockname()[1])
    assert (result.exit_code, "cannot listen" in result.stderr) == (1, True)
