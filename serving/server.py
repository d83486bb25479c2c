"""What all endpoints share: the engine, the server's knobs, the names of the model, and who has been let in.

`app.py` makes one Server per process and hands it to every endpoint family.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fastapi import Request

from jaxengine.chat_template import read_template
from jaxengine.request import InvalidRequest
from jaxengine.tokenizer import Tokenizer, require_tokenizer
from serving.admission import Admission
from serving.config import ServerConfig
from serving.engine_protocol import ServedEngine
from serving.errors import Refusal
from serving.generation import Running
from serving.reading import Formats
from serving.shared_counts import SharedCounts

if TYPE_CHECKING:
    from serving.tracing import Traces

logger = logging.getLogger(__name__)


class Server:
    """State of one HTTP process. `priorities`: whether the engine's scheduling policy looks at them."""

    def __init__(
        self,
        engine: ServedEngine,
        config: ServerConfig,
        *,
        model: str = "demo",
        priorities: bool = False,
        traces: Traces | None = None,
        counts: SharedCounts | None = None,
    ) -> None:
        self.engine, self.config, self.traces = engine, config, traces
        self.model, self.names = model, config.served_model_name or (model,)
        self.priorities = priorities
        self.chat_template = read_template(config.chat_template)
        tokenizer = engine.tokenizer
        template = self.chat_template or (tokenizer.chat_template if tokenizer is not None else None)
        self.formats = Formats.of(config, tokenizer, template)
        self.admission = Admission(engine, config.max_queue_len, counts or SharedCounts(-1, 1))
        self.started = int(time.time())
        self.version = own_version()
        self.fingerprint = f"jaxengine-{self.version}"
        self.jobs: set[Running] = set()
        self.tasks: set[asyncio.Task[Any]] = set()

    @property
    def name(self) -> str:
        """The model's name in answers and metrics."""
        return self.names[0]

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises InvalidRequest where the engine works with token ids only."""
        return require_tokenizer(self.engine.tokenizer, "text")

    def check_model(self, name: str | None) -> None:
        """Raises Refusal (404) for a model that is not served here; None asks for the one that is."""
        if name is not None and name not in self.names:
            raise Refusal(404, f"The model `{name}` does not exist.", param="model")

    def check_priority(self, priority: int | None) -> int:
        if priority and not self.priorities:
            raise InvalidRequest(
                "priority", "this server runs first come, first served", "start it with --scheduling-policy priority"
            )
        return priority or 0

    def request_id(self, request: Request, asked: str | None, prefix: str) -> str:
        """The id that an answer carries: the body's, the X-Request-Id header's, or a new one."""
        return f"{prefix}-{asked or request.scope.get('request_id') or secrets.token_hex(16)}"

    def abort_running(self) -> None:
        """Every open request ends with what it has."""
        self.spawn(self.engine.abort([id for job in self.jobs for id in job.ids]))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something on the side; its failure is logged. The server does not end before it."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s failed", task.get_name(), exc_info=error)


def own_version() -> str:
    try:
        return version("jaxengine")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
