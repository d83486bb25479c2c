"""What an engine in a process of its own and its clients say to each other: msgpack, never pickle.

`engine_process.py` and `engine_client.py` speak it over ZeroMQ. A sequence travels under a number that its client
gives it; a message that belongs to an engine carries its `epoch`, so that nothing of one that died is taken for its
successor's.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from jaxengine.metrics import Snapshot
from jaxengine.plan import TokenLogprobs
from jaxengine.sampling_params import SamplingParams


class Start(msgspec.Struct):
    """The first line that the supervisor writes to the engine, as JSON."""

    address: str
    arguments: dict[str, Any]  # EngineConfig's


class Started(msgspec.Struct):
    """The line that it gets: what went wrong, or nothing."""

    error: tuple[str, str, str] | None = None  # InvalidRequest's fields
    failure: str | None = None  # any other exception
    max_model_len: int = 0  # of an engine that runs


class Add(msgspec.Struct, tag="add", array_like=True):
    """Compute this sequence. `output` are tokens that it got from an engine that died: it goes on after them."""

    epoch: str
    number: int
    parent: int  # the same for the n sequences of one request; 0: it has one
    prompt: bytes  # int32
    output: bytes  # int32
    params: SamplingParams
    seed: int
    priority: int
    cache_salt: str | None
    arrival_time: float
    request_id: str = ""  # the user's, for the log


class Finish(msgspec.Struct, tag="finish", array_like=True):
    """These sequences are over: nobody wants more of them."""

    numbers: list[int]
    reason: str


class Ping(msgspec.Struct, tag="ping", array_like=True):
    """Say that you live. `metrics` are the client's own; `prove`: by running a step, if there is none to run anyway."""

    metrics: Snapshot
    prove: bool


class Reset(msgspec.Struct, tag="reset", array_like=True):
    """Forget the prefix cache; answered with Done of this number."""

    number: int
    running_requests: bool


class Profile(msgspec.Struct, frozen=True):
    """What clients must know of the engine's model and limits."""

    max_model_len: int
    vocab_size: int
    max_num_seqs: int
    max_logprobs: int
    eos_token_ids: list[int]
    sampling_defaults: dict[str, Any]
    memory: list[str]  # the memory plan, as printed
    startup: dict[str, float]


class Pong(msgspec.Struct, tag="pong", array_like=True):
    epoch: str
    profile: Profile
    metrics: Snapshot  # the engine's own
    others: Snapshot  # the sum of all other clients'


class Logprobs(msgspec.Struct, array_like=True):
    ids: list[int]
    values: list[float]
    rank: int

    @classmethod
    def of(cls, row: TokenLogprobs) -> Logprobs:
        return cls(row.ids.tolist(), row.values.tolist(), int(row.rank))

    def row(self) -> TokenLogprobs:
        return TokenLogprobs(np.array(self.ids, np.int32), np.array(self.values, np.float32), self.rank)


class News(msgspec.Struct, array_like=True):
    """What one sequence got of a dispatch."""

    number: int
    tokens: list[int]
    finish_reason: str | None = None
    stop_reason: int | None = None
    complete: bool = False  # plan.py: Sampled.complete, of the last token
    logprobs: list[Logprobs] | None = None  # one a token
    num_cached_tokens: int = 0
    scheduled_time: float | None = None
    prompt_logprobs: list[Logprobs] | None = None  # with the first token


class Tokens(msgspec.Struct, tag="tokens", array_like=True):
    epoch: str
    news: list[News]
    running: int
    waiting: int


class Refused(msgspec.Struct, tag="refused", array_like=True):
    """A sequence that can never run: InvalidRequest's fields."""

    number: int
    field: str
    problem: str
    remedy: str


class Done(msgspec.Struct, tag="done", array_like=True):
    number: int
    value: bool


ToEngine = Add | Finish | Ping | Reset
ToClient = Pong | Tokens | Refused | Done

_encoder = msgspec.msgpack.Encoder()
_for_engine = msgspec.msgpack.Decoder(ToEngine)
_for_client = msgspec.msgpack.Decoder(ToClient)


def encode(message: ToEngine | ToClient) -> bytes:
    return _encoder.encode(message)


def read_in_engine(message: bytes) -> ToEngine:
    """Raises InvalidRequest for sampling parameters that cannot be, msgspec.DecodeError for what is no message."""
    return _for_engine.decode(message)


def read_in_client(message: bytes) -> ToClient:
    return _for_client.decode(message)


def pack_ids(ids: list[int]) -> bytes:
    return np.array(ids, np.int32).tobytes()


def unpack_ids(content: bytes) -> list[int]:
    return np.frombuffer(content, np.int32).tolist()
