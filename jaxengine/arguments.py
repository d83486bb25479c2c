"""The engine's arguments as people coming from vLLM write them → EngineConfig.

`llm.py` and the command line call `engine_config`. What this engine does not have is refused by name, or skipped with a
warning where skipping changes no result.
"""

from __future__ import annotations

import logging
from typing import Any

from jaxengine.config import EngineConfig
from jaxengine.request import InvalidRequest

logger = logging.getLogger(__name__)

# Arguments of vLLM that tune what does not exist here; leaving them out gives the same tokens.
WITHOUT_MEANING = {
    "swap_space": "preempted requests are recomputed, never swapped",
    "disable_custom_all_reduce": "XLA chooses the all-reduce",
    "max_seq_len_to_capture": "every shape is compiled before the first request",
    "disable_cascade_attn": "there is one attention kernel",
    "disable_log_stats": "statistics are always counted and never logged by themselves",
    "compilation_config": "XLA compiles everything",
    "distributed_executor_backend": "devices are sharded by one jax mesh",
    "max_parallel_loading_workers": "weights are read by one thread per device",
    "use_v2_block_manager": "there is one page pool",
    "cpu_offload_gb": "weights stay on the device",
    "hf_token": "the hub's own login is used",
}

# Values that ask for what this engine does anyway; any other value is refused.
SAME_ANYWAY: dict[str, tuple[Any, ...]] = {
    "runner": ("auto", "generate"),
    "convert": ("auto", "none"),
    "task": ("auto", "generate"),
    "tokenizer_mode": ("auto", "fast"),
    "quantization": (None,),
    "pipeline_parallel_size": (1,),
    "data_parallel_size": (1,),
    "enable_expert_parallel": (False,),
    "enable_chunked_prefill": (True, None),
    "enable_lora": (False,),
    "enable_sleep_mode": (False,),
    "speculative_config": (None,),
    "logits_processors": (None, []),
    "limit_mm_per_prompt": (None, {}),
}


def engine_config(**arguments: Any) -> EngineConfig:
    """Raises InvalidRequest for a name that is unknown (with the nearest known ones) or a value that is not served."""
    known = set(EngineConfig.names())
    kept = {}
    for name, value in arguments.items():
        if name in known:
            kept[name] = value
        elif name in WITHOUT_MEANING:
            logger.warning("%s=%r is ignored: %s", name, value, WITHOUT_MEANING[name])
        elif name in SAME_ANYWAY:
            if value not in SAME_ANYWAY[name]:
                raise InvalidRequest(
                    name, f"{value!r} is not supported", f"leave it out or use {SAME_ANYWAY[name][0]!r}"
                )
        else:
            kept[name] = value  # refused below, with suggestions
    return EngineConfig.from_arguments(**kept)
