"""AsyncEngine's interface to an engine in a process of its own: requests out, tokens in, text made here.

The server's processes use it, each one its own. Everything runs on one event loop. The client remembers what each
sequence has got so far; when the engine's process has died and another has taken its place, the sequences go on there.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
import uuid
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import Any

import zmq
import zmq.asyncio

from jaxengine import wire
from jaxengine.engine_errors import EngineDeadError
from jaxengine.metrics import Gauge, Metrics, Snapshot, add_snapshots
from jaxengine.outputs import OutputProcessor
from jaxengine.plan import Sampled
from jaxengine.prompts import PromptLike, read_prompt
from jaxengine.request import (
    InvalidRequest,
    Request,
    RequestOutput,
    SamplingParams,
    make_requests,
    validate_request,
)
from jaxengine.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

PING_SECONDS = 0.5
SILENCE_SECONDS = 5.0  # without an answer after which the engine is said to be unwell
MOST_REPLAYS = 3  # of a sequence that gets no further in any of them: it may be what kills the engine


@dataclass(eq=False)
class Sequence:
    """One of the n sequences of a request, while it runs."""

    number: int
    parent: int
    request: Request  # token_ids grow here as they do in the engine
    replays: int = 0  # since its last token


@dataclass(eq=False)
class Open:
    """One request and its way back to the task that streams it."""

    queue: asyncio.Queue[RequestOutput | Exception] = field(default_factory=asyncio.Queue)
    sequences: list[Sequence] = field(default_factory=list)


class EngineClient:
    """Streams of many requests from one engine's socket. `connect` makes one."""

    def __init__(self, socket: zmq.asyncio.Socket, tokenizer: Tokenizer | None, first: wire.Pong) -> None:
        self._socket = socket
        self.tokenizer, self.profile, self._epoch = tokenizer, first.profile, first.epoch
        self.metrics = Metrics(first.profile.max_model_len)  # everybody's
        self._own = Metrics(first.profile.max_model_len)
        self._before: Snapshot = []  # of engines that died
        self._engines, self._others = first.metrics, first.others
        self.outputs = OutputProcessor(tokenizer, self._own)
        self._open: dict[str, Open] = {}
        self._sequences: dict[int, Sequence] = {}
        self._numbers = itertools.count(1)
        self._seeds = random.SystemRandom()
        self._resets: dict[int, asyncio.Future[bool]] = {}
        self._proofs: list[asyncio.Future[None]] = []
        self._heard = time.monotonic()
        self._error: EngineDeadError | None = None
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._ping_regularly())]

    @classmethod
    async def connect(cls, address: str, tokenizer: Tokenizer | None) -> EngineClient:
        """Waits for the engine's first answer."""
        socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, uuid.uuid4().bytes)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            socket.setsockopt(option, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        socket.connect(address)
        await socket.send(wire.encode(wire.Ping([], False)))
        first = wire.read_in_client(await socket.recv())
        assert isinstance(first, wire.Pong)
        return cls(socket, tokenizer, first)

    # For callers

    async def generate(
        self,
        prompt: PromptLike,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
        add_special_tokens: bool = True,
        arrival_time: float | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """As AsyncEngine.generate. An engine that dies and comes back is a pause, no token is lost or comes twice."""
        read = await read_prompt(prompt, self.tokenizer, add_special_tokens=add_special_tokens)
        if request_id in self._open:
            raise InvalidRequest("request_id", f"{request_id!r} is already running", "use another id")
        self._check(read.token_ids, sampling_params)
        if self._error is not None:
            raise self._error
        arrival = time.time() if arrival_time is None else arrival_time
        requests = make_requests(
            request_id,
            read.token_ids,
            sampling_params,
            seed=self._seeds.getrandbits(32),
            arrival_time=arrival,
            priority=priority,
            cache_salt=read.cache_salt,
        )
        self.outputs.add(request_id, read.text, read.token_ids, sampling_params, arrival)
        entry = self._open[request_id] = Open()
        parent = next(self._numbers) if len(requests) > 1 else 0
        for request in requests:
            sequence = Sequence(next(self._numbers), parent, request)
            self._sequences[sequence.number] = sequence
            entry.sequences.append(sequence)
            self._send_sequence(sequence)
        finished = False
        try:
            while not finished:
                output = await entry.queue.get()
                if isinstance(output, Exception):
                    finished = True
                    raise output
                finished = output.finished
                yield output
        finally:
            self._open.pop(request_id, None)
            if not finished:
                self.outputs.abort(request_id)
            self._end([s.number for s in entry.sequences], "abort")

    def _check(self, prompt_token_ids: list[int], params: SamplingParams) -> None:
        """What needs no engine. Raises InvalidRequest."""
        profile = self.profile
        validate_request(
            prompt_token_ids,
            params,
            max_model_len=profile.max_model_len,
            vocab_size=profile.vocab_size,
            max_logprobs=profile.max_logprobs,
            eos_token_ids=self.eos_token_ids,
        )
        if self.tokenizer is None and params.stop:
            raise InvalidRequest("stop", "text needs a tokenizer", "use stop_token_ids")

    async def abort(self, request_ids: str | Iterable[str]) -> None:
        """End requests; who streams them gets a last output with finish_reason "abort"."""
        for request_id in [request_ids] if isinstance(request_ids, str) else request_ids:
            entry = self._open.get(request_id)
            if entry is not None and (output := self.outputs.abort(request_id)) is not None:
                self._end([sequence.number for sequence in entry.sequences], "abort")
                entry.queue.put_nowait(output)

    async def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        number = next(self._numbers)
        future = self._resets[number] = asyncio.get_running_loop().create_future()
        self._send(wire.Reset(number, reset_running_requests))
        return await future

    async def check_health(self) -> None:
        """Raises EngineDeadError when the engine has ended, or cannot run a step now."""
        if self._error is not None:
            raise self._error
        proof = asyncio.get_running_loop().create_future()
        self._proofs.append(proof)
        self._ping(prove=True)
        try:
            await asyncio.wait_for(proof, SILENCE_SECONDS)
        except TimeoutError:
            silent = time.monotonic() - self._heard
            raise EngineDeadError(f"the engine has not answered for {silent:.0f} seconds") from None

    @property
    def max_model_len(self) -> int:
        return self.profile.max_model_len

    @property
    def max_num_seqs(self) -> int:
        return self.profile.max_num_seqs

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        return self.profile.sampling_defaults

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return frozenset(self.profile.eos_token_ids)

    @property
    def memory_table(self) -> list[str]:
        return self.profile.memory

    @property
    def is_running(self) -> bool:
        return self._error is None

    @property
    def errored(self) -> bool:
        return self._error is not None and self._error.__cause__ is not None

    def fail(self, cause: BaseException | None) -> None:
        """The engine has ended for good: open streams raise EngineDeadError."""
        self._error = EngineDeadError("the engine was shut down" if cause is None else f"the engine failed: {cause}")
        self._error.__cause__ = cause
        for entry in self._open.values():
            entry.queue.put_nowait(self._error)

    async def close(self) -> None:
        """Stop listening. Open streams raise EngineDeadError."""
        if self._error is None:
            self.fail(None)
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._socket.close()

    # Messages

    def _send(self, message: wire.ToEngine) -> None:
        self._socket.send(wire.encode(message))  # never waits: there is no limit to what may be queued

    def _send_sequence(self, sequence: Sequence) -> None:
        request = sequence.request
        self._send(
            wire.Add(
                self._epoch,
                sequence.number,
                sequence.parent,
                wire.pack_ids(request.prompt_token_ids),
                wire.pack_ids(request.output_token_ids),
                request.params,
                request.seed,
                request.priority,
                request.cache_salt,
                request.arrival_time,
            )
        )

    def _end(self, numbers: list[int], reason: str) -> None:
        running = [number for number in numbers if self._sequences.pop(number, None)]
        if running:
            self._send(wire.Finish(running, reason))

    def _ping(self, prove: bool = False) -> None:
        self._send(wire.Ping(self._own.snapshot(), prove))

    async def _ping_regularly(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            self._ping()

    async def _listen(self) -> None:
        while True:
            message = wire.read_in_client(await self._socket.recv())
            self._heard = time.monotonic()
            match message:
                case wire.Tokens():
                    if message.epoch == self._epoch:
                        self.metrics.num_requests_running.set(message.running)
                        self.metrics.num_requests_waiting.set(message.waiting)
                        self._take(message.news)
                case wire.Pong():
                    self._hear(message)
                case wire.Refused():
                    self._refuse(message)
                case wire.Done():
                    if (future := self._resets.pop(message.number, None)) and not future.done():
                        future.set_result(message.value)

    def _hear(self, pong: wire.Pong) -> None:
        if pong.epoch != self._epoch:
            self._before = add_snapshots([self._before, self._engines])
            self._epoch, self.profile = pong.epoch, pong.profile
            self._replay()
        self._engines, self._others = pong.metrics, pong.others
        total = add_snapshots([self._own.snapshot(), self._others, self._before, self._engines])
        present = zip(self.metrics.values(), total, self._engines, strict=True)  # what died has no gauges any more
        self.metrics.load([now if isinstance(metric, Gauge) else value for metric, value, now in present])
        proofs, self._proofs = self._proofs, []
        for proof in proofs:
            if not proof.done():
                proof.set_result(None)

    def _replay(self) -> None:
        """Another engine has taken the place of one that died: let every sequence go on there."""
        for future in self._resets.values():
            if not future.done():
                future.set_result(True)  # nothing is cached there
        self._resets.clear()
        logger.warning("another engine runs now: %d sequences go on there", len(self._sequences))
        for sequence in list(self._sequences.values()):
            sequence.replays += 1
            if sequence.replays > MOST_REPLAYS:
                self._fail_request(sequence)
            elif sequence.number in self._sequences:  # not ended with a sibling just now
                self._send_sequence(sequence)

    def _fail_request(self, sequence: Sequence) -> None:
        request_id = sequence.request.user_request_id
        entry = self._open.get(request_id)
        if entry is not None and (output := self.outputs.abort(request_id, "error")) is not None:
            for each in entry.sequences:
                self._sequences.pop(each.number, None)
            entry.queue.put_nowait(output)

    def _refuse(self, refused: wire.Refused) -> None:
        sequence = self._sequences.pop(refused.number, None)
        if sequence is None:
            return
        request_id = sequence.request.user_request_id
        entry = self._open.get(request_id)
        self.outputs.drop(request_id)
        if entry is not None:
            entry.queue.put_nowait(InvalidRequest(refused.field, refused.problem, refused.remedy))

    def _take(self, news: list[wire.News]) -> None:
        """Make outputs of the tokens, one a token, and hand them to the streams."""
        alive = [(each, sequence) for each in news if (sequence := self._sequences.get(each.number)) is not None]
        for step in range(max((len(each.tokens) for each, _ in alive), default=0)):
            sampled = [_sampled(each, sequence, step) for each, sequence in alive if step < len(each.tokens)]
            outputs, stopped = self.outputs.process(sampled)
            for output in outputs:
                if (entry := self._open.get(output.request_id)) is not None:
                    entry.queue.put_nowait(output)
            if stopped:
                ended = {id(request) for request, _ in stopped}
                self._end([s.number for _, s in alive if id(s.request) in ended], "stop")
        for each, sequence in alive:
            if each.finish_reason is not None:
                self._sequences.pop(sequence.number, None)


def _sampled(news: wire.News, sequence: Sequence, step: int) -> Sampled:
    """Token `step` of the news, noted in the sequence."""
    request, token = sequence.request, news.tokens[step]
    sequence.replays = 0
    if request.scheduled_time is None:
        request.num_cached_tokens, request.scheduled_time = news.num_cached_tokens, news.scheduled_time
    request.token_ids.append(token)
    sampled = Sampled(request, token)
    if step == len(news.tokens) - 1:
        sampled.finish_reason, sampled.stop_reason, sampled.complete = (
            news.finish_reason,
            news.stop_reason,
            news.complete,
        )
    if news.logprobs:
        sampled.logprobs = news.logprobs[step].row()
    if news.prompt_logprobs is not None and step == 0:
        sampled.prompt_logprobs = [row.row() for row in news.prompt_logprobs]
    return sampled
