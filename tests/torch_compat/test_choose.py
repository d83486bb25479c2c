"""Our own model where there is one, else transformers' through torch; the rest is refused by name."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxengine import LLM, SamplingParams
from jaxengine.models import UnsupportedModel
from jaxengine.models.decoder import Decoder
from jaxengine.sharding import make_mesh
from tests.torch_compat import sweep
from tests.torch_compat.test_live import GREEDY, PROMPT, SMALL, expected, tokens
from tests.torch_compat.tiny_configs import tiny_config
from torch_compat import torch_weights, weights
from torch_compat.choose import Wanted, choose
from torch_compat.module import TorchModel


def wanted(model_impl: str) -> Wanted:
    return Wanted(model_impl, "float32", {}, False, page_size=4, cache_dtype=None)


def saved(name: str, directory: Path) -> Any:
    reference = sweep.reference_model(tiny_config(name))
    reference.save_pretrained(directory)
    return reference


def test_ours_where_there_is_one(tmp_path: Path) -> None:
    saved("qwen3", tmp_path)
    model, loader = choose(tmp_path, wanted("auto"), make_mesh(1))
    assert isinstance(model, Decoder)
    assert loader is weights
    model, loader = choose(tmp_path, wanted("torch"), make_mesh(1))
    assert isinstance(model, TorchModel)
    assert loader is torch_weights


def test_transformers_own_where_there_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reference = saved("bloom", tmp_path)
    with caplog.at_level(logging.WARNING), LLM(str(tmp_path), skip_tokenizer_init=True, **SMALL) as llm:
        assert [r.message for r in caplog.records if "torch" in r.message] == [
            "BloomForCausalLM has no native model here: serving transformers' own, traced through torch."
        ]
        assert isinstance(llm.engine.runner.model, TorchModel)
        assert tokens(llm) == expected(reference)
        longer = [PROMPT * 2, PROMPT + PROMPT[:3]]
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in longer], GREEDY, use_tqdm=False)
        assert [list(o.outputs[0].token_ids) for o in outputs] == [expected(reference, prompt) for prompt in longer]
        params = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=1, logprobs=1)
        [output] = llm.generate([{"prompt_token_ids": PROMPT}], params, use_tqdm=False)
        assert output.prompt_logprobs is not None
        assert len(output.prompt_logprobs) == len(PROMPT)


def test_jax_alone_refuses_by_name(tmp_path: Path) -> None:
    saved("bloom", tmp_path)
    with pytest.raises(UnsupportedModel, match="BloomForCausalLM"):
        choose(tmp_path, wanted("jax"), make_mesh(1))


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("bloom", tmp_path)
    monkeypatch.setitem(sys.modules, "torch_compat._torchax", None)
    with pytest.raises(UnsupportedModel, match=r"BloomForCausalLM.*torchax is needed.*jaxengine\[torch\]"):
        choose(tmp_path, wanted("auto"), make_mesh(1))


def test_both_reasons_are_given(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace("{", '{"quantization_config": {"quant_method": "awq"},', 1))
    with pytest.raises(UnsupportedModel, match=r"'awq'.*through torch"):
        choose(tmp_path, wanted("auto"), make_mesh(1))
