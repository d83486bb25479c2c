"""An H200 to compile for on a machine that need not have one.

Scripts that use it run in processes of their own: the CUDA plugin must be found before jax starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jax.sharding import Mesh

NO_COMPILER = 77  # exit status of a script where the CUDA plugin is missing; the reason is its last line on stderr


def told_by(module: str, *arguments: str) -> Any:
    """What such a script prints as JSON in its last line; skips the test where there is no CUDA compiler."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode == NO_COMPILER:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def compiler(axis: str, xla_flags: str = "") -> Mesh:
    """A mesh of one H200, without tuning on a device. Ends the process where jax has no CUDA compiler."""
    flags = f"--xla_gpu_autotune_level=0 {xla_flags}"
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "XLA_FLAGS": flags}
    import jax
    from jax.experimental import topologies

    jax.devices()  # finds the plugin, makes no GPU client
    target = (Path(__file__).parent / "data" / "h200.txtpb").read_text()
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", topology_name="h200", target_config=target, topology="1x1x1"
        )
    except Exception as error:
        print(f"no CUDA compiler for jax {jax.__version__} here: {error!r}"[:200], file=sys.stderr)
        sys.exit(NO_COMPILER)
    return jax.sharding.Mesh(topologies.make_mesh(topology, (1,), (axis,)).devices, (axis,))
