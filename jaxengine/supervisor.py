"""Starts the engine's process, watches it, and starts another in its place when it dies or hangs.

The server makes one, beside one EngineClient a process that answers HTTP. What was running goes on in the next engine:
its clients see to that (engine_client.py).
"""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from jaxengine import wire
from jaxengine.config import EngineConfig
from jaxengine.engine_errors import EngineDeadError
from jaxengine.request import InvalidRequest

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # between two looks at the process
PING_SECONDS = 1.0
MOST_FAILED_STARTS = 3  # in a row, after the first engine had started
END_SECONDS = 10.0  # that an engine has for its end before it is killed


class EngineSupervisor:
    """One engine process at a time, behind one address. A context manager."""

    def __init__(self, config: EngineConfig, *, hang_seconds: float = 60.0) -> None:
        """hang_seconds: without any answer after which an engine is killed; 0: never."""
        self.config, self.hang_seconds = config, hang_seconds
        self.on_lost: Callable[[Exception], object] = lambda error: None  # called in a thread: no engine will come back
        self._directory = tempfile.TemporaryDirectory(prefix="jaxengine-")  # for its owner alone
        self.address = f"ipc://{Path(self._directory.name) / 'engine'}"
        self.process: subprocess.Popen[bytes] | None = None
        self.num_restarts = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="engine supervisor", daemon=True)

    def start(self) -> None:
        """Returns when the engine can serve. Raises InvalidRequest for a setting that cannot be, EngineDeadError."""
        self._launch()
        self._thread.start()

    def stop(self) -> None:
        """End the engine; returns when it has ended."""
        self._ending.set()
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._thread.is_alive():
            self._thread.join()
        self._directory.cleanup()

    def __enter__(self) -> EngineSupervisor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self) -> None:
        command = [sys.executable, "-m", "jaxengine.engine_process"]
        process = self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(wire.Start(self.address, dataclasses.asdict(self.config))) + b"\n")
        process.stdin.flush()  # and stays open: its end is the engine's
        with process.stdout as stdout:
            answer = stdout.readline()
        if not answer:
            raise EngineDeadError(f"the engine's process ended with status {process.wait()} before it was ready")
        started = msgspec.json.decode(answer, type=wire.Started)
        if started.error is not None:
            raise InvalidRequest(*started.error)
        if started.failure is not None:
            raise EngineDeadError(f"the engine could not start: {started.failure}")
        # The next one must have room for what clients were told of this one, however much memory there is then.
        self.config = dataclasses.replace(self.config, max_model_len=started.max_model_len)

    def _watch(self) -> None:
        context = zmq.Context()
        socket, heard, asked = _monitor(context, self.address), time.monotonic(), 0.0
        while not self._ending.wait(LOOK_SECONDS):
            assert self.process is not None
            status, now = self.process.poll(), time.monotonic()
            if status is None and self.hang_seconds and now - heard > self.hang_seconds:
                logger.error("the engine has not answered for %.0f seconds: it is killed", now - heard)
                self.process.kill()
                status = self.process.wait()
            if status is not None:
                if not self._replace(status):
                    break
                socket.close(0)
                socket, heard = _monitor(context, self.address), time.monotonic()
            if now - asked > PING_SECONDS:
                asked = now
                socket.send(wire.encode(wire.Ping([], False)))
            while socket.poll(0):
                socket.recv()
                heard = time.monotonic()
        context.destroy(linger=0)

    def _replace(self, status: int) -> bool:
        """Start another engine; False when that is hopeless or not wanted any more."""
        for attempt in range(MOST_FAILED_STARTS):
            if self._ending.wait(attempt):
                return False
            logger.error("the engine's process ended with status %s: starting another", status)
            try:
                self._launch()
            except (EngineDeadError, InvalidRequest, OSError) as error:
                failure = error
            else:
                self.num_restarts += 1
                return True
        if not self._ending.is_set():
            self.on_lost(failure)
        return False


def _monitor(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(address)
    return socket
