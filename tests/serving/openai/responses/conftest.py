"""Responses through the openai package: from the packaged model, and from an engine that says what a test wants."""

import pytest
from fake_engine import FakeEngine

from jaxengine import AsyncEngine

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.reasoning_content }}|{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def responses(served):
    return served.openai.responses


@pytest.fixture
def scripted(serve):
    """scripted(text, **knobs): a server whose model answers this. `fake` is its engine."""
    engines = []

    def make(text, **knobs):
        fake = FakeEngine(answer=text)
        fake.scheduler = type("Scheduler", (), {"max_num_seqs": 8})()
        fake.tokenizer.templates.named["default"] = TEMPLATE
        engines.append((fake, AsyncEngine(fake)))
        server = serve(engines[-1][1], tool_call_parser="hermes", reasoning_parser="qwen3", **knobs)
        server.fake = fake
        return server

    yield make
    for fake, engine in engines:
        fake.gate.set()
        engine.shutdown()
