"""Beam search by repeated one-token requests: the prefix cache makes each step cost one token per beam.

`LLM.beam_search` calls it with its own `generate`. Scores and lengths are vLLM's: the sum of logprobs over
length ** length_penalty, the prompt's tokens counted in the length.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from jaxengine.prompts import Prompt
from jaxengine.request import BeamSearchParams, Logprob, RequestOutput, SamplingParams

Generate = Callable[[list[Prompt], SamplingParams], list[RequestOutput]]


@dataclass(slots=True)
class BeamSearchSequence:
    """One beam; `tokens` begins with the prompt, and `text` is the text of all of them."""

    tokens: list[int]
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)  # one per generated token
    cum_logprob: float = 0.0
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | None = None


@dataclass(slots=True)
class BeamSearchOutput:
    """The best sequences of one prompt, best first."""

    sequences: list[BeamSearchSequence]


@dataclass(slots=True)
class Search:
    """One prompt's search."""

    prompt: Prompt
    beams: list[BeamSearchSequence]
    completed: list[BeamSearchSequence] = field(default_factory=list)


def beam_search(
    prompts: Sequence[Prompt],
    params: BeamSearchParams,
    generate: Generate,
    *,
    eos_token_ids: Collection[int],
    max_model_len: int,
    on_step: Callable[[], object] = lambda: None,
) -> list[BeamSearchOutput]:
    """`on_step` is called after each token. Sequences that reach max_model_len end there with reason "length"."""
    one_token = SamplingParams(
        max_tokens=1, logprobs=2 * params.beam_width, temperature=params.temperature, ignore_eos=True
    )
    searches = [Search(prompt, [BeamSearchSequence(list(prompt.token_ids))]) for prompt in prompts]
    for _ in range(params.max_tokens):
        for search in searches:
            _end_at_limit(search, max_model_len)
        live = [(search, beam) for search in searches for beam in search.beams]
        if not live:
            break
        requests = [Prompt(beam.tokens, cache_salt=search.prompt.cache_salt) for search, beam in live]
        results = iter(generate(requests, one_token))
        for search in searches:
            grown = [child for beam in search.beams for child in _children(beam, next(results))]
            ended = set() if params.ignore_eos else set(eos_token_ids)
            for beam in grown:
                if beam.tokens[-1] in ended:
                    beam.finish_reason, beam.stop_reason = "stop", beam.tokens[-1]
                    search.completed.append(beam)
            live_beams = [beam for beam in grown if beam.finish_reason is None]
            search.beams = _best(live_beams, params, eos_token_ids)
        on_step()
    for search in searches:
        for beam in search.beams:
            beam.finish_reason = "length"
        search.completed += search.beams
    outputs = [BeamSearchOutput(_best(search.completed, params, eos_token_ids)) for search in searches]
    if not params.include_stop_str_in_output:
        for output in outputs:
            for beam in output.sequences:
                if beam.finish_reason == "stop":
                    beam.tokens.pop()
    return outputs


def score(beam: BeamSearchSequence, length_penalty: float, eos_token_ids: Collection[int]) -> float:
    length = len(beam.tokens) - (beam.tokens[-1] in eos_token_ids)
    return beam.cum_logprob / max(length, 1) ** length_penalty


def _best(
    beams: list[BeamSearchSequence], params: BeamSearchParams, eos_token_ids: Collection[int]
) -> list[BeamSearchSequence]:
    ranked = sorted(beams, key=lambda beam: score(beam, params.length_penalty, eos_token_ids), reverse=True)
    return ranked[: params.beam_width]


def _children(beam: BeamSearchSequence, result: RequestOutput) -> list[BeamSearchSequence]:
    (logprobs,) = result.outputs[0].logprobs or ({},)
    return [
        BeamSearchSequence([*beam.tokens, token], [*beam.logprobs, logprobs], beam.cum_logprob + entry.logprob)
        for token, entry in logprobs.items()
    ]


def _end_at_limit(search: Search, max_model_len: int) -> None:
    for beam in search.beams:
        if len(beam.tokens) >= max_model_len:
            beam.finish_reason = "length"
            search.completed.append(beam)
    search.beams = [beam for beam in search.beams if beam.finish_reason is None]
