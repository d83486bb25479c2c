"""Several processes that answer HTTP on one socket, for one engine: started, watched, replaced and ended here."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
from types import FrameType

from jaxengine import EngineConfig
from jaxengine.supervisor import EngineSupervisor
from serving.config import ServerConfig
from serving.shared_counts import SharedCounts
from serving.worker import orders_line

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2  # between two looks at the processes


class Workers:
    """`run` returns when all have ended."""

    def __init__(
        self, listening: socket.socket, supervisor: EngineSupervisor, config: ServerConfig, engine: EngineConfig
    ) -> None:
        self.listening, self.config = listening, config
        self.counts = SharedCounts.make(config.api_server_count)
        self.orders = [
            orders_line(listening, supervisor.address, config, engine, self.counts, place)
            for place in range(config.api_server_count)
        ]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ending = False
        self.lost = threading.Event()
        supervisor.on_lost = lambda error: self.lost.set()

    def run(self) -> bool:
        """Serve until a signal comes; False if the engine was lost before."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        self.processes = [self._start(place) for place in range(len(self.orders))]
        while any(process.poll() is None for process in self.processes):
            if self.lost.wait(LOOK_SECONDS):
                for process in self.processes:
                    if process.stdin is not None:
                        process.stdin.close()  # tells them
                for process in self.processes:
                    process.wait()
            elif not self.ending:
                for place, process in enumerate(self.processes):
                    if process.poll() is not None:
                        self.counts.clear(place)
                        self.processes[place] = self._start(place)
        return not self.lost.is_set()

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "serving.worker"]
        fds = [self.listening.fileno(), self.counts.file]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=fds, start_new_session=True)
        assert process.stdin is not None
        process.stdin.write(self.orders[place])
        process.stdin.flush()
        return process

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """The terminal's signal reaches them through us alone: they are of another session."""
        self.ending = True
        for process in self.processes:
            process.send_signal(number)
