"""A request's body → one of our structs, with an error that names the field whenever it cannot be.

Every POST endpoint calls `read`. A field that is unknown, or known and not served, is refused by name: what a client
asks for is never silently left out.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect

from serving.errors import ClientLeft, Refusal

PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*?)`$")


class NotServed(msgspec.Struct, frozen=True):
    """A field that others serve. Its `neutral` values ask for nothing and pass."""

    remedy: str = "leave it out"
    neutral: tuple[Any, ...] = ()


class Body(msgspec.Struct, kw_only=True):
    """What an endpoint reads. `not_served`: known names outside of the fields."""

    not_served: ClassVar[Mapping[str, NotServed]] = {}


Kind = TypeVar("Kind", bound=Body)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def read(request: Request, kind: type[Kind], limit: int) -> Kind:
    """Raises Refusal: 413 for more than `limit` bytes, 400 for what is no such object; ClientLeft."""
    return decode(await _bytes(request, limit), kind)


def decode(body: bytes, kind: type[Kind]) -> Kind:
    try:
        fields = _fields.decode(body)
        _check_names(fields, kind)
        return _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        message, param = str(error), None
        if (place := PLACE.search(message)) is not None:
            message, param = message[: place.start()], place[1] or None
        raise Refusal(400, f"{param}: {message}" if param else message, param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error


@functools.cache
def _decoder(kind: type[Kind]) -> msgspec.json.Decoder[Kind]:
    return msgspec.json.Decoder(kind)


def _check_names(given: Mapping[str, msgspec.Raw], kind: type[Body]) -> None:
    for name in given.keys() - _names(kind):
        refused = kind.not_served.get(name)
        if refused is None:
            near = difflib.get_close_matches(name, _names(kind), n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else "leave it out"
            raise Refusal(400, f"{name[:100]}: there is no such field; {hint}", param=name[:100])
        value = msgspec.json.decode(given[name])
        if value is not None and value not in refused.neutral:
            raise Refusal(400, f"{name}: not supported; {refused.remedy}", param=name)


@functools.cache
def _names(kind: type[Body]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(kind))


async def _bytes(request: Request, limit: int) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # forms of other sites can send any other type without asking
        raise Refusal(400, f"the content type is {kind or 'missing'!r}; send application/json")
    too_large = Refusal(413, f"the body is larger than {limit} bytes; send less or raise --max-body-size")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        raise too_large
    parts, size = [], 0
    try:
        async for part in request.stream():
            parts.append(part)
            if (size := size + len(part)) > limit:
                raise too_large
    except ClientDisconnect:
        raise ClientLeft from None
    return b"".join(parts)
