"""Our structs in FastAPI's OpenAPI document.

Bodies are read and written by msgspec, so each route says itself what it takes and answers: `operation` makes the part
of one route, `describe` adds the schemas that the routes refer to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi

from serving.bodies import Body
from serving.errors import ErrorBody

PLACE = "#/components/schemas/{name}"
PROBLEMS = {
    "400": "The request cannot be served; `param` names the field.",
    "401": "The API key is missing or wrong.",
    "404": "There is no such model, or response.",
    "408": "It has taken longer than its timeout, or than the server's.",
    "413": "The body is too large.",
    "429": "The server is overloaded; Retry-After says when to try again.",
    "500": "The server failed.",
    "503": "The server is shutting down, or its engine has ended.",
}


def operation(
    body: type[Body] | None,
    answer: type[msgspec.Struct] | None,
    *,
    stream: type[msgspec.Struct] | None = None,
    problems: Iterable[int] = (),
) -> dict[str, Any]:
    """Keyword arguments of a route. `stream`: what the events carry; None: never a stream.

    problems: statuses of its failures, where it reads no body; those that do have them all.
    """
    content: dict[str, Any] = {}
    if answer is not None:
        content["application/json"] = {"schema": _reference(answer)}
    if stream is not None:
        events = f"Events whose data are {stream.__name__} objects, ended by `[DONE]`."
        content["text/event-stream"] = {"schema": {"description": events}}
    responses: dict[str, Any] = {"200": {"description": "The answer.", **({"content": content} if content else {})}}
    for status in PROBLEMS if body is not None else ("401", *map(str, problems)):
        responses[status] = {
            "description": PROBLEMS[status],
            "content": {"application/json": {"schema": _reference(ErrorBody)}},
        }
    extra: dict[str, Any] = {"responses": responses}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _reference(body)}}}
    return {"openapi_extra": extra, "response_class": Response, "response_model": None}


def describe(app: FastAPI, types: Iterable[type[msgspec.Struct]]) -> None:
    """Completes the app's document by these types and all that they are made of."""
    types = [ErrorBody, *types]

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes, tags=None
            )
            _, schemas = msgspec.json.schema_components(types, ref_template=PLACE)
            for kind in types:
                if issubclass(kind, Body):
                    schemas[kind.__name__]["additionalProperties"] = False
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)  # ours are 400
            document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": PLACE.format(name=kind.__name__)}
