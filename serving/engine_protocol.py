"""What the HTTP side sees of an engine, wherever it runs: in this process, or in one of its own.

`serving/commands/serve.py` makes one; everything else in `serving` knows this protocol alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any, Protocol

from jaxengine.metrics import Metrics
from jaxengine.prompts import PromptLike
from jaxengine.request import RequestOutput, SamplingParams
from jaxengine.tokenizer import Tokenizer


class ServedEngine(Protocol):
    """Its methods are called from one event loop."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None: the engine works with token ids only."""

    @property
    def metrics(self) -> Metrics: ...

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output, in tokens."""

    @property
    def max_num_seqs(self) -> int:
        """Most sequences that run at once."""

    @property
    def memory_table(self) -> list[str]:
        """The memory plan, in lines."""

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """SamplingParams fields that the model's authors recommend."""

    @property
    def eos_token_ids(self) -> frozenset[int]: ...

    @property
    def is_running(self) -> bool: ...

    @property
    def errored(self) -> bool:
        """True when a failure ended it."""

    def generate(
        self,
        prompt: PromptLike,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
        add_special_tokens: bool = True,
        arrival_time: float | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Outputs as they come; closing the generator aborts the request.

        Raises InvalidRequest before the first output, and EngineDeadError when the engine ends.
        """

    async def abort(self, request_ids: str | Iterable[str]) -> None:
        """End requests; who streams them gets a last output with finish_reason "abort"."""

    async def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool: ...

    async def check_health(self) -> None:
        """Raises EngineDeadError when the engine cannot run a step."""
