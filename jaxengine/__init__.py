"""jaxengine: serves large language models with JAX. These are its public names.

They are imported when first used, so that a module which needs no jax (the scheduler, the command line's help) loads
none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxengine.async_engine import AsyncEngine
    from jaxengine.config import EngineConfig
    from jaxengine.engine_client import EngineClient
    from jaxengine.engine_errors import EngineDeadError
    from jaxengine.llm import LLM
    from jaxengine.model_list import NativeModel, native_models
    from jaxengine.request import (
        BeamSearchParams,
        CompletionOutput,
        InvalidRequest,
        Logprob,
        RequestOutput,
        RequestOutputKind,
        SamplingParams,
    )
    from jaxengine.structured_outputs import StructuredOutputsParams

__all__ = [
    "LLM",
    "AsyncEngine",
    "BeamSearchParams",
    "CompletionOutput",
    "EngineClient",
    "EngineConfig",
    "EngineDeadError",
    "InvalidRequest",
    "Logprob",
    "NativeModel",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "native_models",
]

_HOMES = {
    "LLM": "llm",
    "AsyncEngine": "async_engine",
    "EngineClient": "engine_client",
    "EngineDeadError": "engine_errors",
    "EngineConfig": "config",
    "NativeModel": "model_list",
    "native_models": "model_list",
    "StructuredOutputsParams": "structured_outputs",
}

if not TYPE_CHECKING:  # a checker would take any name for granted

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"jaxengine.{_HOMES.get(name, 'request')}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
