"""Every test runs on the CPU, which stands for eight devices. This must be in force before jax starts.

The compiler is told not to try hard: five sixths of a tiny program's compile time would go into machine code that runs
for milliseconds. What a program computes, its collectives and its buffers are the same.
"""

import os

QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)

if os.environ.setdefault("JAX_PLATFORMS", "cpu") == "cpu":
    os.environ.setdefault("XLA_FLAGS", " ".join(("--xla_force_host_platform_device_count=8", *QUICK)))
