"""The whole engine on a GPU: the Pallas kernels give the reference's tokens, and nothing compiles after ready."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import pytest

from jaxengine import LLM, SamplingParams, StructuredOutputsParams

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


def test_pages_of_eight_bits_are_near_the_reference(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    prompts = [{"prompt_token_ids": [(31 * i + 7 * n) % 4000 + 1 for i in range(n)]} for n in (5, 16, 300, 900)]
    greedy = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, logprobs=1)
    told = []
    for backend, kept in (("auto", "fp8"), ("reference", "fp8"), ("reference", "auto")):
        with LLM(
            str(tmp_path), kernel_backend=backend, kv_cache_dtype=kept, dtype="bfloat16", load_format="dummy",
            skip_tokenizer_init=True, max_num_seqs=8, max_num_batched_tokens=512, kv_cache_memory_bytes=1 << 26,
        ) as llm:  # fmt: skip
            outputs = [output.outputs[0] for output in llm.generate(prompts, greedy, use_tqdm=False)]
        told.append([next(iter(output.logprobs[0].values())).logprob for output in outputs])  # of the first tokens
    fp8, reference, exact = told
    assert fp8 == pytest.approx(reference, abs=0.02)
    assert fp8 == pytest.approx(exact, abs=0.2)


def test_what_a_grammar_allows_and_nothing_else() -> None:
    regex = r"[0-9]{1,3}(-[a-f]{2}){1,2}"
    free = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
    bound = SamplingParams(temperature=2.0, max_tokens=24, structured_outputs=StructuredOutputsParams(regex=regex))
    with LLM("demo", kv_cache_memory_bytes=1 << 28) as llm:
        alone = llm.generate(["Who is it?"], free, use_tqdm=False)[0].outputs[0]
        outputs = llm.generate(["Who is it?"] * 16, [bound, free] * 8, use_tqdm=False)
    assert all(re.fullmatch(regex, output.outputs[0].text) for output in outputs[::2])
    assert len({output.outputs[0].text for output in outputs[::2]}) > 1
    assert {tuple(output.outputs[0].token_ids) for output in outputs[1::2]} == {tuple(alone.token_ids)}
