"""A torch module of Hugging Face transformers without its parameters, with our functions in transformers' registries.

`module.py` makes a model of it. choose.py calls `load_module` for a directory.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from transformers import AutoConfig, AutoModelForCausalLM

from jaxengine.models import UnsupportedModel
from torch_compat import attention, experts, older
from torch_compat._torchax import torch


def load_module(
    path: Path, dtype: jnp.dtype, *, overrides: Mapping[str, Any] | None = None, trust_remote_code: bool = False
) -> torch.nn.Module:
    """The torch module that config.json names, without its parameters. Raises UnsupportedModel.

    trust_remote_code: whether Python files beside config.json may be run.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **(overrides or {}))
        if getattr(config, "quantization_config", None):
            raise UnsupportedModel(f"{path}: quantized checkpoints are not served through torch.")
        return build_module(config, dtype, trust_remote_code=trust_remote_code)
    except UnsupportedModel:
        raise
    except Exception as error:  # transformers' own code: every check of a config there raises in its own way
        if "trust_remote_code" in str(error):
            raise UnsupportedModel(f"{path}: brings code of its own; trust_remote_code=True runs it.") from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModel(f"{path}: transformers cannot build it: {reason}") from error


def build_module(config: Any, dtype: jnp.dtype, *, trust_remote_code: bool = False) -> torch.nn.Module:
    """A causal language model of this config, its parameters on torch's "meta" device, with our attention and experts.

    Some parameters are float32 whatever the dtype, as transformers loads them.
    """
    config = copy.deepcopy(config)
    wanted = _torch_dtype(dtype)
    older.prepare(config.model_type)
    config.use_cache = config.get_text_config(decoder=True).use_cache = False
    with _parameters_on_meta():
        module = AutoModelForCausalLM.from_config(
            config, dtype=wanted, attn_implementation=attention.NAME, experts_implementation=experts.NAME,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
    strict = set(module._keep_in_fp32_modules_strict or ())
    kept = strict | (set(module._keep_in_fp32_modules or ()) if wanted == torch.float16 else set())
    wide = [re.escape(part).replace(r"\*", r"\w+") for part in kept]
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if wanted != torch.float32 and any(re.search(rf"(^|\.){part}(\.|$)", name) for part in wide):
            tensor.data = tensor.data.float()
    return module.eval()


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters made inside the block take no memory; buffers, such as frequencies, are real."""
    kind: Any = torch.nn.Module
    original = kind.register_parameter

    def register(self: torch.nn.Module, name: str, parameter: Any) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
        original(self, name, parameter)

    kind.register_parameter = register
    try:
        yield
    finally:
        kind.register_parameter = original


def _torch_dtype(dtype: jnp.dtype) -> torch.dtype:
    return getattr(torch, jnp.dtype(dtype).name)
