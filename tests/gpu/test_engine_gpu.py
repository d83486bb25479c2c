"""The whole engine on a GPU: the Pallas kernels give the reference's tokens, and nothing compiles after ready."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from jaxengine import LLM, SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU (JAX_PLATFORMS=cuda)"),
]

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 4096,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "eos_token_id": 0,
}
KINDS = ({"temperature": 0.0}, {"seed": 3}, {"seed": 4, "top_k": 50, "top_p": 0.9, "presence_penalty": 0.5})


def tokens(directory: Path, backend: str) -> list[list[int]]:
    lengths = (1, 15, 16, 17, 70, 300, 900)
    prompts = [[(31 * i + 7 * n) % 4000 + 1 for i in range(n)] for n in lengths]
    params = [SamplingParams(max_tokens=24, ignore_eos=True, **KINDS[i % 3]) for i in range(len(prompts))]
    arguments = {"load_format": "dummy", "skip_tokenizer_init": True, "max_num_seqs": 8, "max_num_batched_tokens": 512}
    with LLM(
        str(directory), kernel_backend=backend, dtype="float32", kv_cache_memory_bytes=1 << 28, **arguments
    ) as llm:
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def test_pallas_gives_the_reference_tokens(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert tokens(tmp_path, "pallas") == tokens(tmp_path, "reference")
