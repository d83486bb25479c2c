"""Weights of a live torch module, and new weights for a running engine: tokens are those of a fresh engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from jaxengine import LLM, SamplingParams
from jaxengine.models import UnsupportedModel
from tests.torch_compat import sweep
from tests.torch_compat.tiny_configs import tiny_config
from torch_compat.checkpoint import CheckpointError

SMALL = {
    "max_model_len": 32, "max_num_seqs": 2, "max_num_batched_tokens": 32, "block_size": 4, "enforce_eager": True,
    "num_scheduler_steps": 1, "compilation_cache_dir": "off", "use_tqdm_on_load": False,
}  # fmt: skip
PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32]
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


def tokens(llm: LLM, prompt: list[int] = PROMPT) -> list[int]:
    [output] = llm.generate([{"prompt_token_ids": prompt}], GREEDY, use_tqdm=False)
    return list(output.outputs[0].token_ids)


def expected(module: Any, prompt: list[int] = PROMPT) -> list[int]:
    """transformers' own greedy tokens."""
    known = torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(GREEDY.max_tokens or 0):
            known = torch.cat([known, module(known, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return known[0, len(prompt) :].tolist()


def train(module: Any) -> None:
    """One step of plain gradient descent, large enough to be seen, on the module's own memory."""
    inputs = torch.tensor([PROMPT])
    module(inputs, labels=inputs, use_cache=False).loss.backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= 0.5 * parameter.grad
                parameter.grad = None


def checkpoint(module: Any) -> dict[str, Any]:
    """The module's weights by the names that a checkpoint gives them."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(module, module.state_dict())


@pytest.mark.parametrize(("name", "model_impl"), [("qwen3", "jax"), ("mixtral", "jax"), ("mixtral", "torch")])
def test_new_weights_give_a_fresh_engines_tokens(name: str, model_impl: str) -> None:
    module = sweep.reference_model(tiny_config(name))
    with LLM.from_torch(module, model_impl=model_impl, **SMALL) as llm:
        before = expected(module)
        assert tokens(llm) == before
        programs = dict(llm.engine.runner.programs)
        train(module)
        after = expected(module)
        assert after != before
        assert tokens(llm) == before  # the engine's memory is its own
        llm.update_weights(checkpoint(module).items())
        assert tokens(llm) == after  # and the prompt's old pages are not found
        assert llm.engine.runner.programs == programs
        zeros = {name: np.zeros(tuple(tensor.shape), np.float32) for name, tensor in checkpoint(module).items()}
        llm.update_weights([("model.norm.weight", zeros["model.norm.weight"])])  # a part of them, of numpy
        assert tokens(llm) == [0] * 6


@pytest.mark.parametrize("requests", ["preempt", "pause"])
def test_requests_that_run_are_computed_again_or_go_on(requests: Any) -> None:
    module = sweep.reference_model(tiny_config("qwen3"))
    with LLM.from_torch(module, **SMALL) as llm:
        llm.enqueue([{"prompt_token_ids": PROMPT}], GREEDY)
        for _ in range(4):  # a prompt, and some tokens of its answer
            llm.engine.step()
        [request] = llm.engine.scheduler.requests.values()
        first = list(request.token_ids)
        assert len(first) > len(PROMPT)
        train(module)
        llm.update_weights(checkpoint(module).items(), requests=requests)
        [output] = llm.wait_for_completion(use_tqdm=False)
        got = list(output.outputs[0].token_ids)
        assert got[: len(first) - len(PROMPT)] == first[len(PROMPT) :]
        assert request.num_preemptions == (1 if requests == "preempt" else 0)
        if requests == "preempt":  # a token was under way
            old = len(first) - len(PROMPT) + 1
            assert got[old:] == expected(module, PROMPT + got[:old])[: len(got) - old]
        assert tokens(llm) == expected(module)


def test_names_and_shapes_are_checked_before_anything_changes() -> None:
    module = sweep.reference_model(tiny_config("qwen3"))
    whole = checkpoint(module)
    with LLM.from_torch(module, **SMALL) as llm:
        for wrong, message in (
            (
                {"model.layers.0.self_attn.q_proj.weight": whole["model.layers.0.self_attn.q_proj.weight"]},
                "must come with",
            ),
            ({"model.layers.9.mlp.up_proj.weight": whole["model.norm.weight"]}, "has no place"),
            ({"model.norm.weight": np.zeros(3, np.float32)}, "has shape"),
        ):
            with pytest.raises(CheckpointError, match=message):
                llm.update_weights(wrong.items())
        assert tokens(llm) == expected(module)


def test_a_torch_module_that_nobody_serves_is_refused() -> None:
    module = sweep.reference_model(tiny_config("roberta"))
    with pytest.raises(UnsupportedModel, match="RobertaForCausalLM"):
        LLM.from_torch(module, model_impl="jax", **SMALL)
