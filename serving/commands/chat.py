"""`jaxengine chat`: a conversation in the terminal, streamed, with the model in this process."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from serving.options import with_engine_options

if TYPE_CHECKING:
    from jaxengine.llm import LLM
    from jaxengine.request import SamplingParams

HELP = "/reset forgets the conversation, /system TEXT sets the instructions, /exit ends; Ctrl-C stops an answer."


@with_engine_options(sampling=True)
def chat(
    model: Annotated[str, typer.Argument(help="A directory, a hub name, or `demo`.")],
    engine: dict[str, Any],
    sampling: dict[str, Any],
    system_prompt: Annotated[str | None, typer.Option("--system-prompt", "-s", help="Instructions.")] = None,
    chat_template: Annotated[str | None, typer.Option(help="Jinja source or a file, in place of the model's.")] = None,
    quick: Annotated[str | None, typer.Option("--quick", "-q", help="One message, one answer, and end.")] = None,
) -> None:
    """Talk with a model in the terminal."""
    from jaxengine.llm import LLM

    with LLM(model, chat_template=chat_template, **engine) as llm:
        params = llm.get_default_sampling_params().clone(**{"max_tokens": None, **sampling})
        conversation = Conversation(llm, params, system_prompt)
        console = Console(highlight=False)
        if quick is not None:
            answer(console, conversation, quick)
            return
        console.print(f"[bold]{model}[/bold]  [dim]{HELP}[/dim]")
        talk(console, conversation)


class Conversation:
    """Messages so far, and how the next one is answered."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None = None) -> None:
        self.llm, self.params, self.system = llm, params, system
        self.messages: list[dict[str, str]] = []
        self.num_tokens = 0  # of the newest answer

    def say(self, text: str) -> Generator[str, None, None]:
        """Pieces of the answer. Closing the iterator stops it; what was said so far stays in the conversation."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*self.messages, {"role": "user", "content": text}]
        said: list[str] = []
        self.num_tokens = 0
        outputs = self.llm.stream_chat([*system, *messages], self.params)
        try:
            for output in outputs:
                for completion in output.outputs:
                    said.append(completion.text)
                    self.num_tokens += len(completion.token_ids)
                    yield completion.text
        finally:
            outputs.close()
            self.messages = [*messages, {"role": "assistant", "content": "".join(said)}]


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
    speed = f"{conversation.num_tokens} tokens, {conversation.num_tokens / seconds:.1f} tok/s"
    console.print(f"\n[dim]{speed}[/dim]")
