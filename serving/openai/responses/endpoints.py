"""POST /v1/responses: items in, a response of items out, whole, as a stream, or in the background; and kept ones.

A response is kept in this process alone (`store.py`), for GET, DELETE and the requests that go on after it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from jaxengine.request import InvalidRequest
from serving.bodies import read
from serving.errors import Refusal
from serving.generation import Outputs, outputs
from serving.openai.answers import json_response
from serving.openai.responses import wire
from serving.openai.responses.answers import ResponseAnswer
from serving.openai.responses.background import Background
from serving.openai.responses.items import Known, read_items
from serving.openai.responses.request import ResponsesRequest, input_tokens, response_job
from serving.openai.responses.store import Kept, Store
from serving.openapi import operation
from serving.server import Server
from serving.stream import EventStream, while_connected

PATH = "/v1/responses"
EVENTS = {
    "schema": {"description": "Events response.created, response.in_progress, response.output_item.added, "
               "response.output_text.delta, … and at last response.completed, response.incomplete or response.failed."}
}  # fmt: skip
UNFIT = re.compile(r"[^0-9A-Za-z-]")  # for ids, which become parts of paths
TYPES = (ResponsesRequest, wire.Response, wire.InputTokens, wire.ItemList, wire.Deleted)


def routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["OpenAI"])
    store = Store.of(server.config)

    @router.post(PATH, **with_events(operation(ResponsesRequest, wire.Response)))
    async def create(request: Request) -> Response:
        """Respond to items, or go on after an earlier response."""
        server.admission.check()
        body = await read(request, ResponsesRequest, server.config.max_body_size)
        stored = stores(store, body)
        previous = previous_of(store, body)
        given = read_items(body.input or [], store.item)
        job, reading = await response_job(server, response_id(request, body), body, conversation(previous, given))
        answer = ResponseAnswer(server, body, job, reading, stored=stored)
        entry = Kept(answer.response, given, previous)
        if body.background:
            with ExitStack() as place:
                place.enter_context(server.admission.enter(job.num_sequences))
                entry.background = Background(answer)
                store.start(entry)
                entry.background.start(server, job, place.pop_all(), lambda: store.keep(entry))
            return followed(entry.background) if body.stream else json_response(answer.response)

        def ended() -> None:
            if stored:
                store.keep(entry)

        events = streamed(answer, outputs(server, job), ended)
        if body.stream:
            return ResponseStream(events, answer, ended)
        async with while_connected(request.receive), aclosing(events):
            async for _ in events:
                pass
        return json_response(answer.response)

    @router.post(f"{PATH}/input_tokens", **operation(ResponsesRequest, wire.InputTokens))
    async def count_input_tokens(request: Request) -> Response:
        """How many tokens the prompt of a response has."""
        body = await read(request, ResponsesRequest, server.config.max_body_size)
        items = conversation(previous_of(store, body), read_items(body.input or [], store.item))
        return json_response(wire.InputTokens(len(await input_tokens(server, body, items))))

    @router.get(f"{PATH}/{{response_id}}", **with_events(operation(None, wire.Response, problems=(400, 404))))
    async def retrieve(
        request: Request,
        response_id: str,
        stream: bool = False,
        starting_after: Annotated[int, Query(ge=-1, description="Number of the last event that was seen.")] = -1,
    ) -> Response:
        """A response that is kept; with `stream=true`, the events of one in the background, from its beginning."""
        check_query(request, "stream", "starting_after")
        entry = store.find(response_id)
        if not stream:
            if "starting_after" in request.query_params:
                raise InvalidRequest("starting_after", "there is no stream", "send stream=true too")
            return json_response(entry.response)
        if entry.background is None:
            problem = "it was not made in the background; its events are not kept"
            raise InvalidRequest("stream", problem, "leave it out, or make responses with background=true")
        return followed(entry.background, starting_after)

    @router.post(f"{PATH}/{{response_id}}/cancel", **operation(None, wire.Response, problems=(400, 404)))
    async def cancel(response_id: str) -> Response:
        """End a response in the background, with what it has; one that has ended stays as it is."""
        entry = store.find(response_id)
        if entry.background is None:
            problem = "it was not made in the background"
            raise InvalidRequest("response_id", problem, "close the connection that waits for it")
        await entry.background.cancel()
        return json_response(entry.response)

    @router.delete(f"{PATH}/{{response_id}}", **operation(None, wire.Deleted, problems=(404,)))
    async def delete(response_id: str) -> Response:
        """Forget a response, and end it if it is running."""
        entry = store.find(response_id)
        if entry.background is not None:
            await entry.background.cancel()
        store.delete(response_id)
        return json_response(wire.Deleted(response_id))

    @router.get(f"{PATH}/{{response_id}}/input_items", **operation(None, wire.ItemList, problems=(400, 404)))
    async def input_items(
        request: Request,
        response_id: str,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> Response:
        """What a response answered; without what came before its `previous_response_id`."""
        check_query(request, "after", "limit", "order")
        items = list(store.find(response_id).input)
        if order == "desc":
            items.reverse()
        if after is not None:
            ids = [item.id for item in items]
            if after not in ids:
                raise InvalidRequest("after", f"there is no item {after[:100]!r}", "use an id of this list")
            items = items[ids.index(after) + 1 :]
        page = items[:limit]
        ends = (page[0].id, page[-1].id) if page else (None, None)
        more = len(items) > limit
        return json_response(wire.ItemList(data=page, first_id=ends[0], last_id=ends[1], has_more=more))

    return router


class ResponseStream(EventStream):
    """It has no end mark: the last event is one of the protocol's, for failures too."""

    def __init__(self, events: AsyncGenerator[bytes, None], answer: ResponseAnswer, ended: Callable[[], None]) -> None:
        super().__init__(events, last=b"")
        self.answer, self.ended = answer, ended

    def failure(self, error: Exception) -> bytes:
        last = b"".join(self.answer.fail(error))
        self.ended()
        return last


def followed(background: Background, after: int = -1) -> EventStream:
    return EventStream(background.follow(after), last=b"")


async def streamed(answer: ResponseAnswer, outputs: Outputs, ended: Callable[[], None]) -> AsyncGenerator[bytes, None]:
    """Its events, some at a time. Before the last ones are out, `ended` is called."""
    async with aclosing(answer.events(outputs)) as events:
        async for some in events:
            if not answer.running:
                ended()
            yield b"".join(some)


def stores(store: Store, body: ResponsesRequest) -> bool:
    """Whether the response is to be kept. Raises InvalidRequest for what needs that where it cannot be had."""
    if not store.size and (body.store or body.background):
        field = "background" if body.background else "store"
        raise InvalidRequest(field, "this server keeps no responses", "start it with --responses-store-size above 0")
    if body.background and body.store is False:
        raise InvalidRequest("background", "it can only be told of a response that is kept", "leave store out")
    return bool(store.size) and body.store is not False


def previous_of(store: Store, body: ResponsesRequest) -> Kept | None:
    """Raises Refusal (404) for one that is not kept."""
    if body.previous_response_id is None:
        return None
    previous = store.find(body.previous_response_id, "previous_response_id")
    if previous.running:
        raise InvalidRequest("previous_response_id", "that response is still running", "wait for its end")
    return previous


def conversation(previous: Kept | None, given: Sequence[Known]) -> list[Known]:
    return [*(() if previous is None else previous.conversation()), *given]


def response_id(request: Request, body: ResponsesRequest) -> str:
    """It has the body's request_id or the X-Request-Id header in it, and can be neither guessed nor taken already."""
    asked = body.request_id or request.scope.get("request_id") or ""
    return f"resp_{UNFIT.sub('_', asked)}_{secrets.token_hex(8)}"


def check_query(request: Request, *known: str) -> None:
    for name in request.query_params:
        if name not in known:
            raise Refusal(400, f"{name[:100]}: there is no such parameter; leave it out", param=name[:100])


def with_events(route: dict[str, Any]) -> dict[str, Any]:
    route["openapi_extra"]["responses"]["200"]["content"]["text/event-stream"] = EVENTS
    return route
