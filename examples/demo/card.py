"""The model cards, written from the log of the training run."""

from typing import Any

_ABOUT = {
    "model": """\
A language model of {million:.1f} million parameters in Qwen3's architecture, trained from nothing by
`examples/train_demo_model.py` on a corpus that `examples/demo_corpus.py` generates. It is shipped with jaxengine so
that everything can be tried and tested without a download, with answers that can be checked.

## What it can do

Small talk, short stories, capitals, continents, languages and currencies of the world's countries, some two hundred
simple facts, sums and differences of numbers below 1,000, products up to 20 × 12, counting, JSON records, extraction
of JSON from a sentence, remembering what was said some turns ago, and calls of tools such as weather, calculator and
time in the Hermes format (`<tool_call>`). Chat goes through the template in `tokenizer_config.json`; plain completion
works for facts, sums and stories. System prompts can give it a name or ask for the bare answer.

## What it cannot do

Anything else. It knows no other facts, does not reason, speaks English only, and answers most other questions with
nonsense. It is no measure of what jaxengine's models can do. It has seen documents of up to {length} tokens, few of
them long.
""",
    "draft": """\
A draft of {million:.2f} million parameters for speculative decoding with jaxengine's demo model: same tokenizer, same
corpus (`examples/demo_corpus.py`), same architecture (Qwen3), a fifth of the size. Alone it is a poor model.
""",
}


def table(log: dict[str, Any]) -> str:
    """Held-out loss and exact match by domain, as markdown."""
    held_out = log["model"].get("held out")
    if not held_out:
        return ""
    matches = log["model"].get("exact match", {})
    lines = ["| domain | right answers | loss |", "| --- | --- | --- |"]
    for domain in dict.fromkeys([*matches, *held_out["domains"]]):
        right = f"{matches[domain]['right']:.1%} of {matches[domain]['questions']}" if domain in matches else ""
        lines.append(f"| {domain} | {right} | {held_out['domains'].get(domain, '')} |")
    lines.append(f"| all | | {held_out['all']} |")
    return "\n".join(lines)


def card(name: str, log: dict[str, Any]) -> str:
    """The README.md of OUT/`name`; what is not measured yet is left out."""
    run, recipe, measured = log[name], log["recipe"], "held out" in log[name]
    text = f"""\
---
license: apache-2.0
language: en
library_name: jaxengine
pipeline_tag: text-generation
---

# jaxengine's demo {name}

{_ABOUT[name].format(million=run["parameters"] / 1e6, length=recipe["length"])}
## Training

{run["steps"]} steps of {recipe["rows"]} × {recipe["length"]} tokens, {run["tokens"] / 1e6:.0f} million in all, in
{run["seconds"]:.0f} seconds on one {log["device"]}; Muon and Adam, seed {log["seed"]}.
"""
    if not measured:
        return text
    text += f"\n## Held out\n\nLoss a learned token on held-out questions: {run['held out']['all']}.\n"
    if name == "draft":
        agrees = log["model"]["held out"]["draft agrees"]
        return text + f"Its most likely token is the demo model's for {agrees:.1%} of those tokens.\n"
    return f"""{text}Greedy answers to questions that no training document contains; an answer is right when it matches
to the letter (json: valid, with the keys asked for).

{table(log)}
"""
