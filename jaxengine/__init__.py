"""jaxengine: serves large language models with JAX. These are its public names."""

from jaxengine.async_engine import AsyncEngine, EngineDeadError
from jaxengine.config import EngineConfig
from jaxengine.llm import LLM
from jaxengine.request import (
    BeamSearchParams,
    CompletionOutput,
    InvalidRequest,
    Logprob,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
)

__all__ = [
    "LLM",
    "AsyncEngine",
    "BeamSearchParams",
    "CompletionOutput",
    "EngineConfig",
    "EngineDeadError",
    "InvalidRequest",
    "Logprob",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
]
