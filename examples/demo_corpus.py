"""The corpus of the demo model, generated from a seed: stories, small talk, facts, arithmetic, JSON, tool calls.

`python examples/demo_corpus.py --count 5` prints some documents. examples/train_demo_model.py trains on it. Documents
are conversations or plain texts; held-out questions (one in twenty, by hash) occur in no training document.
"""

import argparse
from collections.abc import Callable, Iterator
from random import Random

from demo import arithmetic, facts, records, stories, talk, tools
from demo.kinds import Conversation, Exchange, Plain, is_held_out, says
from demo.render import rendered

# how often an exchange of a mixed conversation comes from each domain
EXCHANGES: dict[str, tuple[float, Callable[[Random], Exchange]]] = {
    "small talk": (9, talk.talk),
    "countries": (13, facts.country_question),
    "facts": (9, facts.fact_question),
    "arithmetic": (20, arithmetic.arithmetic),
    "comparing": (2, arithmetic.compare),
    "parity": (1, arithmetic.parity),
    "counting": (5, arithmetic.counting),
    "sequences": (3, arithmetic.sequence),
    "number words": (2, arithmetic.in_words),
    "stories": (4, stories.story_asked),
    "json": (6, records.invented),
    "extraction": (6, records.extracted),
    "sentiment": (2, records.sentiment),
    "lists": (2, records.members),
    "repeating": (3, talk.repeat),
    "no tool": (1, tools.without_tool),
}
NEED_TOOLS = ("arithmetic", "no tool")  # domains that are answered otherwise when there is a tool for them
TOOLS = "tools"
MEMORY = "memory"
_PLAIN: dict[str, tuple[float, Callable[[Random], Plain]]] = {
    "plain stories": (5, stories.story_text),
    "plain facts": (6, facts.facts_text),
    "plain arithmetic": (6, arithmetic.arithmetic_text),
    "plain counting": (2, arithmetic.counting_text),
    "plain json": (1, records.records_text),
    "plain introductions": (2, stories.about_me),
}
# domains in which every question has one right answer, so that exact match can be asked for
EXACT = (
    "countries",
    "facts",
    "arithmetic",
    "comparing",
    "parity",
    "counting",
    "sequences",
    "number words",
    "extraction",
    "sentiment",
    "repeating",
    MEMORY,
    TOOLS,
)


def _choose(rng: Random, table: dict[str, tuple[float, Callable]]) -> tuple[str, Callable]:
    names = list(table)
    name = rng.choices(names, [table[n][0] for n in names])[0]
    return name, table[name][1]


def draw(rng: Random, make: Callable[[Random], Exchange], held_out: bool = False) -> Exchange:
    """An exchange from the training questions, or from the held-out ones."""
    while is_held_out((made := make(rng)).key) != held_out:
        pass
    return made


def training_exchange(rng: Random, beside_tools: bool = False) -> Exchange:
    """From any domain; beside tools from those which no tool would answer."""
    name, make = _choose(rng, EXCHANGES)
    while beside_tools and name in NEED_TOOLS:
        name, make = _choose(rng, EXCHANGES)
    return draw(rng, make)


def conversation(rng: Random, domain: str, held_out: bool = False) -> Conversation:
    """A conversation whose last exchange is of this domain; the earlier ones are always training questions."""
    messages = []
    offered: tuple[dict, ...] = ()
    earlier = rng.choice((0, 0, 0, 0, 0, 1, 1, 2, 3))
    style = rng.random()  # of the system prompt: none, general, a name, short answers
    name = rng.choice(talk.ASSISTANTS) if 0.75 < style < 0.9 else None
    if style > 0.45:
        prompt = talk.name_prompt(rng, name) if name else rng.choice(talk.DEFAULT_PROMPTS)
        messages.append(says("system", prompt))
    before = [
        talk.who(rng, name) if rng.random() < 0.2 else training_exchange(rng, domain == TOOLS) for _ in range(earlier)
    ]
    if domain == "small talk" and name and rng.random() < 0.7:
        last = talk.who(rng, name)
    elif domain == MEMORY:
        while is_held_out((pair := talk.memory(rng))[1].key) != held_out:
            pass
        before, last = [*before[:1], pair[0], *before[1:]], pair[1]
    elif domain == TOOLS:
        last = draw(rng, tools.needed, held_out)
        offered = tools.offered(rng, last.tools)
        before = [exchange for exchange in before if rng.random() < 0.5]
    else:
        last = draw(rng, EXCHANGES[domain][1], held_out)
        if rng.random() < 0.06 and domain not in NEED_TOOLS and not before:
            offered = tools.offered(rng, ())  # tools are there, none is needed
    if style > 0.9 and last.short is not None:  # only exchanges that have a short answer
        messages = [says("system", rng.choice(talk.SHORT_PROMPTS))]
        before = [exchange for exchange in before if exchange.short is not None]
        before, last = [_shortened(exchange) for exchange in before], _shortened(last)
    for exchange in (*before, last):
        messages += exchange.messages
    return Conversation(domain, tuple(messages), offered)


def _shortened(exchange: Exchange) -> Exchange:
    return Exchange.of(exchange.key, exchange.messages[0]["content"], exchange.short or "")


def long_conversation(rng: Random) -> Conversation:
    """Up to sixty exchanges, with something to remember, so that the whole context is used."""
    told, asked = talk.memory(rng)
    while is_held_out(asked.key):
        told, asked = talk.memory(rng)
    between = [training_exchange(rng) for _ in range(rng.randint(4, 55))]
    exchanges = [told, *between, asked, *(training_exchange(rng) for _ in range(rng.randint(0, 3)))]
    return Conversation("long", tuple(m for exchange in exchanges for m in exchange.messages))


def plain_text(rng: Random, held_out: bool = False) -> tuple[str, Plain]:
    while True:
        name, make = _choose(rng, _PLAIN)
        made = make(rng)
        if is_held_out(made.key) == held_out:
            return name, made


def document(rng: Random) -> Conversation | Plain:
    """One training document."""
    kind = rng.random()
    if kind < 0.22:
        return plain_text(rng)[1]
    if kind < 0.37:
        return conversation(rng, TOOLS)
    if kind < 0.42:
        return conversation(rng, MEMORY)
    if kind < 0.432:
        return long_conversation(rng)
    return conversation(rng, _choose(rng, EXCHANGES)[0])


def documents(seed: int, shard: int, count: int) -> Iterator[Conversation | Plain]:
    """The documents of one shard: the same for the same seed, on any machine and with any number of processes."""
    rng = Random(f"{seed}/{shard}")
    return (document(rng) for _ in range(count))


def held_out_conversations(seed: int, domain: str, count: int) -> list[Conversation]:
    rng = Random(f"{seed}/held out/{domain}")
    return [conversation(rng, domain, held_out=domain not in ("small talk", "lists", "no tool")) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    for made in documents(options.seed, 0, options.count):
        print(made.text if isinstance(made, Plain) else rendered(made.messages, made.tools), end="\n-----\n")


if __name__ == "__main__":
    main()
