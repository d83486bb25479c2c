"""The command line in front of an engine without a model."""

import sys
from pathlib import Path

import pytest
from served_model import demo, serve, served  # noqa: F401  (fixtures)

sys.path.insert(0, str(Path(__file__).parent.parent / "jaxengine"))  # the fake engine


@pytest.fixture
def built(monkeypatch):
    """Engines that commands built, and the configurations they asked for."""
    import fake_engine

    import jaxengine.build

    made = []

    def build_engine(config, *, progress=True):
        engine = fake_engine.FakeEngine()
        engine.tokenizer.templates.named["default"] = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
        made.append((config, engine))
        return engine

    monkeypatch.setattr(jaxengine.build, "build_engine", build_engine)
    return made


@pytest.fixture
def invoke():
    """Runs the command line; gives back its result, with stdout and stderr apart."""
    from typer.testing import CliRunner

    from serving.cli import app

    def invoke(*arguments, **options):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)

    return invoke
