"""`jaxengine bench kernels`: every op and implementation by itself, beside what this device can do at most."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from serving.commands.bench.report import write_json

SIZES = "One layer of the model, on one device (default: Llama-3.1-8B's, experts of Qwen3-30B-A3B)"


def kernels(
    op: Annotated[list[str] | None, typer.Option(help="May be given several times; default: all.")] = None,
    tokens: Annotated[list[int] | None, typer.Option(help="Of a step; default: 1, 32, 256 and 2048.")] = None,
    context: Annotated[list[int] | None, typer.Option(help="Of decoding rows; default: 1024 and 8192.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Calls in a row that are timed together.")] = 20,
    heads: Annotated[int, typer.Option(min=1, rich_help_panel=SIZES)] = 32,
    kv_heads: Annotated[int, typer.Option(min=1, rich_help_panel=SIZES)] = 8,
    head_dim: Annotated[int, typer.Option(min=1, rich_help_panel=SIZES)] = 128,
    hidden_size: Annotated[int, typer.Option(min=1, rich_help_panel=SIZES)] = 4096,
    intermediate_size: Annotated[int, typer.Option(min=1, rich_help_panel=SIZES)] = 14336,
    vocab_size: Annotated[int, typer.Option(min=1, rich_help_panel=SIZES)] = 128256,
    block_size: Annotated[int, typer.Option(min=1, rich_help_panel=SIZES)] = 16,
    dtype: Annotated[str, typer.Option(rich_help_panel=SIZES)] = "bfloat16",
    num_experts: Annotated[int, typer.Option(min=1, rich_help_panel=SIZES)] = 128,
    experts_per_token: Annotated[int, typer.Option(min=1, rich_help_panel=SIZES)] = 8,
    moe_intermediate_size: Annotated[int, typer.Option(min=1, rich_help_panel=SIZES)] = 768,
    output_json: Annotated[Path | None, typer.Option(help="File for the results.")] = None,
) -> None:
    """Measure each op's implementations: time, rate, and share of what the device reads or multiplies at most.

    One row per op, case and implementation. Cases of attention are `rows x context`, or a prompt's tokens; the
    others go by the tokens of a step.
    """
    from jaxengine import kernel_cases, kernel_timing

    unknown = sorted(set(op or ()) - set(kernel_cases.OP_NAMES))
    if unknown:
        raise typer.BadParameter(
            f"{', '.join(unknown)}; there are {', '.join(kernel_cases.OP_NAMES)}", param_hint="--op"
        )
    sizes = kernel_cases.Sizes(
        heads, kv_heads, head_dim, hidden_size, intermediate_size, vocab_size, block_size, dtype, num_experts,
        experts_per_token, moe_intermediate_size,
    )  # fmt: skip
    floor = kernel_timing.measure_floor(dtype)
    read, multiply = floor.bytes_per_second / 1e12, floor.flops_per_second / 1e12
    typer.echo(f"This device reads {read:.3g} TB/s and multiplies {multiply:.4g} TFLOP/s")
    rows: list[dict[str, Any]] = []
    for row in kernel_timing.measure(
        sizes,
        op or kernel_cases.OP_NAMES,
        tokens=tokens or (1, 32, 256, 2048),
        contexts=context or (1024, 8192),
        repeats=repeats,
        floor=floor,
    ):
        rows.append(row)
        typer.echo(_line(row))
    write_json(output_json, {"TB/s": read, "TFLOP/s": multiply, "kernels": rows})


def _line(row: dict[str, Any]) -> str:
    name = f"{row['op']:16} {row['case']:22} {row['backend']:10}"
    if "error" in row:
        return f"{name} {row['error'].splitlines()[0][:80]}"
    unit = "TB/s" if "TB/s" in row else "TFLOP/s"
    return f"{name} {row['us']:10.1f} us {row[unit]:9.3f} {unit:8} {row['floor']:6.1%}"
