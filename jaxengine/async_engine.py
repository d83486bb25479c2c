"""The engine for many callers at once: one thread steps it, asyncio tasks stream from it.

The server and `async for` users call it. Everything that touches the engine happens in its thread, which takes commands
from a queue and sleeps on that queue when there is nothing to generate.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from jaxengine.config import EngineConfig
from jaxengine.engine import Engine
from jaxengine.engine_errors import EngineDeadError
from jaxengine.metrics import Metrics
from jaxengine.prompts import PromptLike, read_prompt
from jaxengine.request import InvalidRequest, RequestOutput, SamplingParams
from jaxengine.tokenizer import Tokenizer

Result = TypeVar("Result")


@dataclass(eq=False)
class Stream:
    """One request's way back to its task."""

    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[RequestOutput | Exception] = field(default_factory=asyncio.Queue)


class AsyncEngine:
    """Streams of many requests from one engine. Made from an Engine that nobody else uses; `shutdown` closes it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._streams: dict[str, Stream] = {}
        self._calls: set[Future[Any]] = set()  # functions that wait for the engine's thread
        self._error: EngineDeadError | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def from_config(cls, config: EngineConfig, *, progress: bool = True) -> AsyncEngine:
        from jaxengine.build import build_engine

        return cls(build_engine(config, progress=progress, served=True))

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
        """Outputs as they come, of the kind that sampling_params asks for; the last one has `finished`.

        Closing or cancelling the generator aborts the request. Raises InvalidRequest before the first output, and
        EngineDeadError whenever the engine ends.
        """
        read = await read_prompt(prompt, self.engine.tokenizer, add_special_tokens=add_special_tokens)
        if request_id in self._streams:
            raise InvalidRequest("request_id", f"{request_id!r} is already running", "use another id")
        stream = self._streams[request_id] = Stream(asyncio.get_running_loop())

        def add() -> None:
            try:
                self.engine.add(
                    request_id,
                    read.token_ids,
                    sampling_params,
                    prompt=read.text,
                    priority=priority,
                    cache_salt=read.cache_salt,
                    arrival_time=arrival_time,
                )
            except Exception as error:  # this request's failure, nobody else's
                self._deliver([(stream, error)])

        finished = False
        try:
            self._commands.put(add)
            if self._error is not None:  # checked after the stream is known: a dying engine reaches it, or we see it
                raise self._error
            while not finished:
                output = await stream.queue.get()
                if isinstance(output, Exception):
                    finished = True
                    raise output
                finished = output.finished
                yield output
        finally:
            self._streams.pop(request_id, None)
            if not finished:
                self._commands.put(lambda: self._abort([request_id]))

    async def abort(self, request_ids: str | Iterable[str]) -> None:
        """End requests; who streams them gets a last output with finish_reason "abort"."""
        ids = [request_ids] if isinstance(request_ids, str) else list(request_ids)
        await self.call(lambda: self._abort(ids))

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run something that touches the engine in its thread, between two steps."""
        future: Future[Result] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        self._commands.put(run)
        if self._error is not None:
            raise self._error
        return await asyncio.wrap_future(future)

    async def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        return await self.call(lambda: self.engine.reset_prefix_cache(reset_running_requests))

    async def check_health(self) -> None:
        """Raises EngineDeadError when the engine has ended."""
        if self._error is not None:
            raise self._error

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.engine.tokenizer

    @property
    def max_model_len(self) -> int:
        return self.engine.max_model_len

    @property
    def max_num_seqs(self) -> int:
        return self.engine.scheduler.max_num_seqs

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        return self.engine.sampling_defaults

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return self.engine.eos_token_ids

    @property
    def memory_table(self) -> list[str]:
        """The memory plan, line by line."""
        return self.engine.memory.table().splitlines()

    @property
    def metrics(self) -> Metrics:
        return self.engine.metrics

    @property
    def is_running(self) -> bool:
        return self._error is None

    @property
    def errored(self) -> bool:
        """True when a failure ended it, False while it runs and after `shutdown`."""
        return self._error is not None and self._error.__cause__ is not None

    @property
    def dead_error(self) -> EngineDeadError | None:
        return self._error

    def shutdown(self, timeout: float | None = None) -> None:
        """End after the step that is running, and close the engine. Open streams raise EngineDeadError."""
        self._commands.put(None)
        self._thread.join(timeout)

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.shutdown)

    # In the engine's thread

    def _run(self) -> None:
        try:
            while self._obey(wait=not self.engine.has_unfinished()):
                if self.engine.has_unfinished():
                    self._publish(self.engine.step())
        except BaseException as error:  # whatever it was, the waiting tasks must hear of it
            dead = EngineDeadError(f"the engine failed: {type(error).__name__}: {error}")
            dead.__cause__ = error
        else:
            dead = EngineDeadError("the engine was shut down")
        self._error = dead
        for future in list(self._calls):
            future.set_exception(dead)
        try:
            self._deliver([(stream, dead) for stream in list(self._streams.values())])
            self.engine.close()
        except Exception as error:
            dead.add_note(f"closing it failed too: {error}")

    def _obey(self, wait: bool) -> bool:
        """Run every command that is there, waiting for a first one if asked; False when told to end."""
        try:
            command = self._commands.get(block=wait)
            while command is not None:
                command()
                command = self._commands.get_nowait()
            return False
        except queue.Empty:
            return True

    def _abort(self, request_ids: list[str]) -> None:
        self._publish(self.engine.abort(request_ids))

    def _publish(self, outputs: list[RequestOutput]) -> None:
        streams = self._streams
        open_ones = [(stream, output) for output in outputs if (stream := streams.get(output.request_id))]
        self._deliver([(stream, output.error or output) for stream, output in open_ones])

    def _deliver(self, items: list[tuple[Stream, Any]]) -> None:
        """Hand over to the event loops: one wake-up per loop and step, however many requests."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Stream, Any]]] = {}
        for item in items:
            by_loop.setdefault(item[0].loop, []).append(item)
        for loop, its_items in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put_all, its_items)
            except RuntimeError:  # that loop was closed with requests open: nobody waits for them any more
                gone = {id(stream) for stream, _ in its_items}
                ids = [request_id for request_id, stream in list(self._streams.items()) if id(stream) in gone]
                for request_id in ids:
                    self._streams.pop(request_id, None)
                self.engine.abort(ids)


def _put_all(items: list[tuple[Stream, Any]]) -> None:
    for stream, item in items:
        stream.queue.put_nowait(item)
