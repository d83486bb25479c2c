"""`jaxengine env`: what it finds and what it advises."""

import json

import pytest

from serving.commands.env import PACKAGES, missing


def test_output(invoke):
    found = json.loads(invoke("env", "--json").stdout)
    assert found["packages"]["jax"]
    assert found["devices"]["cpu:0"]
    text = invoke("env").stdout
    assert found["packages"]["jax"] in text
    assert found["system"]["python"] in text


EVERYTHING = dict.fromkeys(PACKAGES, "1.0")


@pytest.mark.parametrize(
    ("absent", "devices", "has_gpu", "commands"),
    [
        ((), {"cuda:0": ""}, True, []),
        ((), {"cpu:0": ""}, False, []),
        (("jax-cuda13-plugin", "jax-cuda12-plugin"), {"cpu:0": ""}, True, ["jaxengine[cuda]"]),
        (("jax-cuda12-plugin",), {"cpu:0": ""}, True, ["JAX_PLATFORMS"]),
        (("torch",), {"cpu:0": ""}, False, ["jaxengine[torch]"]),
    ],
)
def test_advice(absent, devices, has_gpu, commands):
    advice = missing(EVERYTHING | dict.fromkeys(absent), devices, has_gpu=has_gpu)
    assert len(advice) == len(commands)
    for entry, command in zip(advice, commands, strict=True):
        assert command in entry["install"]
