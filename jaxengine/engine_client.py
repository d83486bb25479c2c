"""AsyncEngine's interface to an engine in a process of its own: requests out, tokens in, text made here.

The server's processes use it, each one its own. Everything runs on one event loop. The client remembers what each
sequence has got so far (`client_streams.py`); when the engine's process has died and another has taken its place, the
sequences go on there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import zmq
import zmq.asyncio

from jaxengine import wire
from jaxengine.client_metrics import ClientMetrics
from jaxengine.client_streams import ClientStreams, Sequence
from jaxengine.engine_errors import EngineDeadError
from jaxengine.metrics import Metrics
from jaxengine.prompts import PromptLike, read_prompt
from jaxengine.request import InvalidRequest, RequestOutput, SamplingParams, make_requests, validate_request
from jaxengine.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

PING_SECONDS = 0.5
SILENCE_SECONDS = 5.0  # without an answer after which the engine is said to be unwell
MOST_REPLAYS = 3  # of a sequence that gets no further in any of them: it may be what kills the engine


class EngineClient:
    """Streams of many requests from one engine's socket. `connect` makes one."""

    def __init__(self, socket: zmq.asyncio.Socket, tokenizer: Tokenizer | None, first: wire.Pong) -> None:
        self._socket = socket
        self.tokenizer, self.profile, self._epoch = tokenizer, first.profile, first.epoch
        self._counted = ClientMetrics(first.profile.max_model_len, first.metrics, first.others)
        self.streams = ClientStreams(tokenizer, self._counted.own)
        self._seeds = random.SystemRandom()
        self._resets: dict[int, asyncio.Future[bool]] = {}
        self._proofs: list[asyncio.Future[None]] = []
        self._heard = time.monotonic()
        self._error: EngineDeadError | None = None
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._ping_regularly())]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

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
        if request_id in self.streams.open:
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
        entry = self.streams.add(request_id, read, sampling_params, arrival, requests)
        for sequence in entry.sequences:
            self._send_sequence(sequence)
        try:
            finished = False
            while not finished:
                output = await entry.next()
                finished = output.finished
                yield output
        finally:
            self._end(self.streams.close(request_id), "abort")

    def _check(self, prompt_token_ids: list[int], params: SamplingParams) -> None:
        """What the engine's profile tells; the engine does not look at it again. Raises InvalidRequest."""
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
            self._end(self.streams.abort(request_id), "abort")

    async def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        number = next(self.streams.numbers)
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
    def metrics(self) -> Metrics:
        """Everybody's."""
        return self._counted.total

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
        self.streams.fail(self._error)

    async def close(self) -> None:
        """Stop listening. Open streams raise EngineDeadError."""
        if self._error is None:
            self.fail(None)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
                request.user_request_id,
            )
        )

    def _end(self, numbers: list[int], reason: str) -> None:
        """Nobody wants more of these sequences."""
        if numbers and not self._socket.closed:
            self._send(wire.Finish(numbers, reason))

    def _ping(self, prove: bool = False) -> None:
        self._send(wire.Ping(self._counted.own.snapshot(), prove))

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("nothing is heard of the engine any more", exc_info=error)
            self.fail(error)

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
                        self._end(self.streams.take(message.news), "stop")
                case wire.Pong():
                    self._hear(message)
                case wire.Refused():
                    self.streams.refuse(message)
                case wire.Done():
                    if (future := self._resets.pop(message.number, None)) and not future.done():
                        future.set_result(message.value)

    def _hear(self, pong: wire.Pong) -> None:
        if pong.epoch != self._epoch:
            self._counted.engine_died()
            self._epoch, self.profile = pong.epoch, pong.profile
            self._replay()
        self._counted.hear(pong.metrics, pong.others)
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
        logger.warning("another engine runs now: %d sequences go on there", len(self.streams.sequences))
        for sequence in list(self.streams.sequences.values()):
            sequence.replays += 1
            if sequence.replays > MOST_REPLAYS:
                self._end(self.streams.abort(sequence.request.user_request_id, "error"), "error")
            elif sequence.number in self.streams.sequences:  # not ended with a sibling just now
                self._send_sequence(sequence)
