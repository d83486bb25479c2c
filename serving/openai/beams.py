"""A request with `use_beam_search`: what the search is asked for, and what cannot be asked with it."""

from __future__ import annotations

from typing import Any

from jaxengine.request import BeamSearchParams, InvalidRequest, SamplingParams
from serving.openai.sampling import PASSED, SamplingFields
from serving.reading import Reading

KNOWN = {  # to the search
    "n", "temperature", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
    "spaces_between_special_tokens",
}  # fmt: skip
OTHERS = {*PASSED, "response_format", "structured_outputs", "logprobs", "top_logprobs"} - KNOWN


def beam_params(fields: SamplingFields, max_tokens: int) -> BeamSearchParams | None:
    """None without `use_beam_search`. Raises InvalidRequest."""
    if not fields.use_beam_search:
        if fields.length_penalty not in (None, 1.0):
            raise InvalidRequest("length_penalty", "it belongs to beam search", "set use_beam_search=true")
        return None
    for name in ("stream", *sorted(OTHERS)):
        if getattr(fields, name, None):
            raise InvalidRequest(name, "beam search cannot take it into account", "leave one of them out")
    optional: dict[str, Any] = {"temperature": fields.temperature, "length_penalty": fields.length_penalty}
    return BeamSearchParams(
        beam_width=fields.n or 1,
        max_tokens=max_tokens,
        ignore_eos=bool(fields.ignore_eos),
        include_stop_str_in_output=bool(fields.include_stop_str_in_output),
        **{name: value for name, value in optional.items() if value is not None},
    )


def answer_params(fields: SamplingFields, reading: Reading | None = None) -> SamplingParams:
    """How the beams are shown: as `n` sequences."""
    shown: dict[str, Any] = {"n": fields.n or 1, "skip_special_tokens": fields.skip_special_tokens is not False}
    if reading is not None:
        if reading.forced is not None:
            raise InvalidRequest("tool_choice", "beam search cannot force calls", "leave one of them out")
        shown |= reading.sampling
    return SamplingParams(**shown)
