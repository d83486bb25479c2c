"""`jaxengine chat`: a conversation in the terminal, streamed, with a model in this process or behind a server."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.console import Console

from serving.commands.remote import Remote
from serving.options import with_engine_options

if TYPE_CHECKING:
    from jaxengine.llm import LLM

HELP = "/reset forgets the conversation, /system TEXT sets the instructions, /exit ends; Ctrl-C stops an answer."


@with_engine_options(sampling=True)
def chat(
    engine: dict[str, Any],
    sampling: dict[str, Any],
    model: Annotated[str | None, typer.Argument(help="A directory, a hub name, or `demo`.")] = None,
    url: Annotated[
        str | None, typer.Option(help="Talk with this server instead, such as http://localhost:8000/v1.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="For the server.")] = None,
    system_prompt: Annotated[str | None, typer.Option("--system-prompt", "-s", help="Instructions.")] = None,
    chat_template: Annotated[str | None, typer.Option(help="Jinja source or a file, in place of the model's.")] = None,
    quick: Annotated[str | None, typer.Option("--quick", "-q", help="One message, one answer, and end.")] = None,
) -> None:
    """Talk with a model in the terminal.

    jaxengine chat demo, or jaxengine chat --url http://localhost:8000/v1
    """
    if url is not None:
        if engine or chat_template:
            raise typer.BadParameter("the server's model is as it is; give no engine options", param_hint="--url")
        with Remote(url, api_key, model) as remote:
            converse(remote.model, Conversation(remote, sampling, system_prompt), quick)
        return
    if model is None:
        raise typer.BadParameter("name a model, or a server by --url", param_hint="MODEL")
    from jaxengine.llm import LLM

    with LLM(model, chat_template=chat_template, **engine) as llm:
        converse(model, Conversation(Local(llm), sampling, system_prompt), quick)


class Speaker(Protocol):
    """`num_tokens`: of the newest answer, as far as one knows."""

    num_tokens: int

    def chat(self, messages: list[dict[str, str]], **sampling: Any) -> Generator[str, None, None]:
        """Pieces of an answer."""


class Local:
    """The model in this process."""

    def __init__(self, llm: LLM) -> None:
        self.llm, self.num_tokens = llm, 0

    def chat(self, messages: list[dict[str, str]], **sampling: Any) -> Generator[str, None, None]:
        self.num_tokens = 0
        params = self.llm.get_default_sampling_params().clone(**{"max_tokens": None, **sampling})
        with closing(self.llm.stream_chat(messages, params)) as outputs:
            for output in outputs:
                for completion in output.outputs:
                    self.num_tokens += len(completion.token_ids)
                    yield completion.text


class Conversation:
    """Messages so far, and how the next one is answered."""

    def __init__(self, speaker: Speaker, sampling: dict[str, Any], system: str | None = None) -> None:
        self.speaker, self.sampling, self.system = speaker, sampling, system
        self.messages: list[dict[str, str]] = []

    def say(self, text: str) -> Generator[str, None, None]:
        """Pieces of the answer. Closing the iterator stops it; what was said so far stays in the conversation, and a
        message without any answer does not."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*self.messages, {"role": "user", "content": text}]
        said: list[str] = []
        try:
            with closing(self.speaker.chat([*system, *messages], **self.sampling)) as pieces:
                for piece in pieces:
                    said.append(piece)
                    yield piece
        finally:
            if said:
                self.messages = [*messages, {"role": "assistant", "content": "".join(said)}]


def converse(name: str, conversation: Conversation, quick: str | None) -> None:
    console = Console(highlight=False)
    if quick is not None:
        answer(console, conversation, quick)
        return
    console.print(f"[bold]{name}[/bold]  [dim]{HELP}[/dim]")
    talk(console, conversation)


def talk(console: Console, conversation: Conversation) -> None:
    while True:
        try:
            text = console.input("[bold green]> [/bold green]").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        command, _, rest = text.partition(" ")
        if command == "/exit":
            return
        if command == "/reset":
            conversation.messages = []
        elif command == "/system":
            conversation.system = rest or None
        elif command.startswith("/"):
            console.print(f"[dim]{HELP}[/dim]")
        elif text:
            try:
                answer(console, conversation, text)
            except ValueError as error:  # this message cannot be served; the conversation goes on
                console.print(f"[red]{error}[/red]")


def answer(console: Console, conversation: Conversation, text: str) -> None:
    start = time.perf_counter()
    pieces = conversation.say(text)
    try:
        for piece in pieces:
            console.print(piece, end="", markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        pieces.close()
    seconds = max(time.perf_counter() - start, 1e-9)
    speed = f"{conversation.speaker.num_tokens} tokens, {conversation.speaker.num_tokens / seconds:.1f} tok/s"
    console.print(f"\n[dim]{speed}[/dim]")
