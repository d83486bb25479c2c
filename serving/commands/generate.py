"""`jaxengine generate`: prompts in, texts out, with the offline API."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.options import with_engine_options


@with_engine_options(sampling=True, defaults={"enforce_eager": True})  # a few shapes are enough for one run
def generate(
    model: Annotated[str, typer.Argument(help="A directory, a hub name, or `demo`.")],
    engine: dict[str, Any],
    sampling: dict[str, Any],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="May be given several times.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help='One prompt a line; .jsonl: lines like {"prompt": "…"}; -: standard input.'),
    ] = None,
    as_chat: Annotated[bool, typer.Option("--chat", help="Each prompt is a user's message: use the template.")] = False,
    n: Annotated[int, typer.Option("-n", help="Outputs per prompt.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per prompt.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Generate text for prompts.

    jaxengine generate demo --prompt "Once upon a time" --max-tokens 64
    """
    from jaxengine.llm import LLM

    prompts: list[Any] = [*(prompt or []), *(read_prompt_file(file) if file else [])]
    if not prompts:
        raise typer.BadParameter("give --prompt or --file")
    if quiet:
        engine["use_tqdm_on_load"] = False
    with LLM(model, **engine) as llm:
        params = llm.get_default_sampling_params().clone(n=n, **sampling)
        if as_chat:
            texts = [p if isinstance(p, str) else p["prompt"] for p in prompts]
            outputs = llm.chat([[{"role": "user", "content": t}] for t in texts], params, use_tqdm=not quiet)
        else:
            outputs = llm.generate(prompts, params, use_tqdm=not quiet)
    for place, output in enumerate(outputs):
        if as_json:
            choices = [
                {"text": c.text, "token_ids": list(c.token_ids), "finish_reason": c.finish_reason}
                for c in output.outputs
            ]
            typer.echo(json.dumps({"prompt": output.prompt, "outputs": choices}, ensure_ascii=False))
            continue
        if len(outputs) > 1 or n > 1:
            typer.secho(f"--- {place + 1}: {output.prompt}", dim=True)
        for completion in output.outputs:
            typer.echo(completion.text)


def read_prompt_file(file: Path) -> list[Any]:
    """Lines of text, or prompts as JSON objects; empty lines are left out."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--file") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if file.suffix != ".jsonl":
        return lines
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint="--file") from error
