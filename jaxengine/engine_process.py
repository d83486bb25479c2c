"""An engine in a process of its own: `python -m jaxengine.engine_process`, started by supervisor.py.

It reads its configuration from the first line of stdin, says on stdout what became of the start, and then serves any
number of clients (engine_client.py) over one ZeroMQ socket. One thread does everything: between two steps it reads what
has come, and when there is nothing to compute it sleeps on the socket.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field

import msgspec
import zmq

from jaxengine import wire
from jaxengine.config import EngineConfig
from jaxengine.core import EngineCore
from jaxengine.garbage import settle
from jaxengine.metrics import Snapshot, add_snapshots
from jaxengine.plan import Sampled
from jaxengine.request import InvalidRequest, Request

IDLE_SECONDS = 0.2  # between two looks at whether it should end
SILENT_SECONDS = 30.0  # after which a client is taken for dead: living ones ping twice a second


@dataclass(eq=False)
class Client:
    identity: bytes
    last_heard: float
    metrics: Snapshot = field(default_factory=list)


class EngineServer:
    """The core behind a socket."""

    def __init__(self, core: EngineCore, address: str) -> None:
        self.core = core
        self.epoch = uuid.uuid4().hex
        self.clients: dict[bytes, Client] = {}
        self.departed: dict[bytes, Snapshot] = {}  # what clients had counted that have died: counters never fall
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.SNDHWM, 0)  # a client that is slow for a moment must not lose tokens
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.socket.bind(address)
        self.profile = wire.Profile(
            max_model_len=core.max_model_len,
            vocab_size=core.model_config.vocab_size,
            max_num_seqs=core.scheduler.max_num_seqs,
            max_logprobs=core.config.max_logprobs,
            eos_token_ids=sorted(core.eos_token_ids),
            sampling_defaults=core.sampling_defaults,
            memory=core.memory.table().splitlines(),
            startup=core.startup,
        )

    def run(self, ending: threading.Event) -> None:
        """Serve until `ending`."""
        looked = time.monotonic()
        while not ending.is_set():
            self.turn()
            if time.monotonic() - looked > 1.0:
                looked = time.monotonic()
                self.forget_silent(looked)

    def turn(self) -> None:
        """Obey what has come, and let the core step if there is anything to compute."""
        self.listen(wait=not self.core.has_unfinished())
        if self.core.has_unfinished():
            self.publish(self.core.step())
            for request, error in self.core.take_refused():
                self.refuse(request.request_id, error)

    def listen(self, wait: bool) -> None:
        """Obey every message that is there, waiting a moment for a first one if asked."""
        if wait and not self.socket.poll(int(IDLE_SECONDS * 1000)):
            return
        while True:
            try:
                identity, content = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.obey(identity, wire.read_in_engine(content))

    def obey(self, identity: bytes, message: wire.ToEngine) -> None:
        client = self.clients.get(identity)
        if client is None:
            client = self.clients[identity] = Client(identity, 0.0, self.departed.pop(identity, []))
        client.last_heard = time.monotonic()
        match message:
            case wire.Add():
                if message.epoch == self.epoch:  # else it was sent to an engine that died, and will be sent again
                    self.add(client, message)
            case wire.Finish():
                for number in message.numbers:
                    self.core.finish(name_of(identity, number), message.reason)
            case wire.Ping():
                client.metrics = message.metrics
                if message.prove and not self.core.has_unfinished():
                    self.core.prove()
                others = [other.metrics for other in self.clients.values() if other is not client]
                others += self.departed.values()
                numbers = self.core.metrics.snapshot(), add_snapshots(others)
                self.send(identity, wire.Pong(self.epoch, self.profile, *numbers))
            case wire.Reset():
                done = self.core.reset_prefix_cache(message.running_requests)
                self.send(identity, wire.Done(message.number, done))

    def add(self, client: Client, message: wire.Add) -> None:
        request = Request(
            name_of(client.identity, message.number),
            wire.unpack_ids(message.prompt),
            message.params,
            arrival_time=message.arrival_time,
            priority=message.priority,
            cache_salt=message.cache_salt,
            seed=message.seed,
            parent_id=name_of(client.identity, message.parent) if message.parent else None,
            label=message.request_id,
        )
        request.token_ids += wire.unpack_ids(message.output)
        try:
            self.core.check(request.params)
            self.core.add(request)
        except InvalidRequest as error:
            self.refuse(request.request_id, error)

    def refuse(self, name: str, error: InvalidRequest) -> None:
        identity, number = owner_of(name)
        self.send(identity, wire.Refused(number, error.field, error.problem, error.remedy))

    def publish(self, steps: list[list[Sampled]]) -> None:
        """Tell every client what its sequences got."""
        news: dict[bytes, dict[int, wire.News]] = defaultdict(dict)
        for sampled in steps:
            for token in sampled:
                identity, number = owner_of(token.request.request_id)
                entry = news[identity].get(number)
                if entry is None:
                    entry = news[identity][number] = _first_news(number, token.request)
                _tell(entry, token)
        scheduler = self.core.scheduler
        for identity, entries in news.items():
            new = list(entries.values())
            self.send(identity, wire.Tokens(self.epoch, new, scheduler.num_running, scheduler.num_waiting))

    def send(self, identity: bytes, message: wire.ToClient) -> None:
        """To a client that may have gone: then nobody gets it."""
        self.socket.send_multipart((identity, wire.encode(message)))

    def forget_silent(self, now: float) -> None:
        """End the sequences of clients that have died."""
        for client in [c for c in self.clients.values() if now - c.last_heard > SILENT_SECONDS]:
            del self.clients[client.identity]
            if client.metrics:  # the supervisor counts nothing
                self.departed[client.identity] = client.metrics
            mine = [name for name in self.core.scheduler.requests if owner_of(name)[0] == client.identity]
            for name in mine:
                self.core.finish(name, "abort")

    def close(self) -> None:
        self.context.destroy(linger=0)
        self.core.close()


def name_of(identity: bytes, number: int) -> str:
    return f"{identity.hex()}/{number}"


@functools.lru_cache(4096)  # asked for each token of a step
def owner_of(name: str) -> tuple[bytes, int]:
    identity, _, number = name.partition("/")
    return bytes.fromhex(identity), int(number)


def _first_news(number: int, request: Request) -> wire.News:
    return wire.News(
        number,
        [],
        logprobs=None if request.params.logprobs is None else [],
        num_cached_tokens=request.num_cached_tokens,
        scheduled_time=request.scheduled_time,
    )


def _tell(news: wire.News, token: Sampled) -> None:
    news.tokens.append(token.token)
    news.finish_reason, news.stop_reason, news.complete = token.finish_reason, token.stop_reason, token.complete
    if news.logprobs is not None and token.logprobs is not None:
        news.logprobs.append(wire.Logprobs.of(token.logprobs))
    if token.prompt_logprobs is not None:
        news.prompt_logprobs = [wire.Logprobs.of(row) for row in token.prompt_logprobs]


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # of the terminal, or of whoever ends all of a service at once:
        signal.signal(number, signal.SIG_IGN)  # the server decides when to end, since its clients may still stream
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=wire.Start)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints goes where messages go
    ready, ending = threading.Event(), threading.Event()
    threading.Thread(target=_end_with_stdin, args=(ready, ending), daemon=True).start()
    try:
        from jaxengine.build import build_core

        core, _ = build_core(EngineConfig.from_arguments(**start.arguments), served=True)
        core.grammars.prepare()
        server = EngineServer(core, start.address)
        started = wire.Started(max_model_len=core.max_model_len)
    except InvalidRequest as error:
        started = wire.Started(error=(error.field, error.problem, error.remedy))
    except Exception as error:
        started = wire.Started(failure=f"{type(error).__name__}: {error}")
    ready.set()
    answers.write(msgspec.json.encode(started) + b"\n")
    answers.close()
    if not started.max_model_len:
        sys.exit(1)
    settle()
    try:
        server.run(ending)
    finally:
        server.close()


def _end_with_stdin(ready: threading.Event, ending: threading.Event) -> None:
    """The supervisor closes stdin to end the engine, and so does its death."""
    while os.read(0, 4096):
        pass
    ending.set()
    if not ready.is_set():
        os._exit(1)  # nobody waits for it any more


if __name__ == "__main__":
    main()
