"""The memory plan: what one device holds, itemised before anything starts, so that nothing runs out after "ready".

`build.py` makes it from exact sizes: the weights' shapes, the compiled programs' own memory_analysis(), the state, and
the rest as KV pages. It prints the plan as a table, and refuses with the knob to turn when it does not fit.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

import jax

from jaxengine.kv_groups import KvGroups
from jaxengine.request import InvalidRequest

ALLOCATOR_SHARE = 0.985  # of the device's allocator that a plan may fill: the rest goes to rounding and holes
CPU_POOL_BYTES = 1 << 30  # the pool's default limit on a CPU, where the machine's memory is not ours to fill
GIB = 1 << 30
MAX_INT = (1 << 31) - 1
ALIKE = KvGroups()  # layers that all see everything


class OutOfMemory(InvalidRequest):
    """The plan does not fit; the message says which knob to turn, and how far."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes per device."""

    device_bytes: int  # what the device has
    limit: int  # what we may use of it
    weights: int
    state: int  # page table, last tokens, sampler, recurrent states
    programs: int  # the largest temporary and output memory of any program
    page_bytes: int  # all layers of one page
    page_size: int
    num_pages: int  # page 0 included, which no request owns
    max_model_len: int
    chunk: int  # most tokens of one sequence in a step
    groups: KvGroups = ALIKE
    slot_bytes: int = 0  # of `state`: recurrent state of one sequence
    narrow_page_bytes: int = 0  # of a page within one array of eight bits, if there are such
    snapshots: int = 0  # of them beside those of running sequences

    @property
    def pool(self) -> int:
        return self.num_pages * self.page_bytes

    @property
    def pool_tokens(self) -> int:
        """Tokens that fit while every layer sees all of them."""
        return (self.num_pages - 1) // self.groups.count * self.page_size

    def pages_for(self, tokens: int) -> int:
        """Most pages that a sequence of so many tokens has at once."""
        return self.groups.most_pages(tokens, self.page_size, self.chunk)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the pool holds, max_model_len at most."""
        return self.groups.longest(max(self.num_pages - 1, 0), self.page_size, self.chunk, self.max_model_len)

    @property
    def total(self) -> int:
        return self.weights + self.state + self.programs + self.pool

    def table(self) -> str:
        """The plan as printed at start-up."""
        concurrency = (self.num_pages - 1) / self.pages_for(self.max_model_len)
        kept = f" and {self.snapshots} kept" if self.snapshots else ""
        recurrent = f", recurrent states of {_size(self.slot_bytes)} a sequence{kept}" if self.slot_bytes else ""
        rows = [
            ("weights", self.weights, ""),
            ("programs", self.programs, "largest temporary memory of any step"),
            ("state", self.state, "page tables, last tokens, sampler" + recurrent),
            ("KV pool", self.pool, f"{self.num_pages:,} pages of {self.page_size} = {self.pool_tokens:,} tokens"),
            ("planned", self.total, f"of {_size(self.limit)} allowed, {_size(self.device_bytes)} present"),
        ]
        lines = ["Memory plan, per device"]
        lines += [f"  {name:<10}{_size(size):>12}   {note}".rstrip() for name, size, note in rows]
        lines.append(f"  longest request {self.max_model_len:,} tokens; {concurrency:.1f} such requests fit at once")
        return "\n".join(lines)


def device_limit(device: jax.Device, utilization: float) -> tuple[int, int]:
    """(bytes the device has, bytes we may use). On a CPU both are the machine's memory times the share."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if not stats:
        present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return present, int(present * utilization)
    present = int(stats["bytes_limit"])  # what the allocator took when jax started
    return present, int(present * ALLOCATOR_SHARE)


def plan_pages(
    plan: MemoryPlan,
    *,
    platform: str,
    max_num_seqs: int,
    override: int | None,
    kv_cache_memory_bytes: int | None,
    auto: bool,
) -> MemoryPlan:
    """Fill in num_pages (and max_model_len when `auto`). Raises OutOfMemory with the knob to turn."""
    fixed = plan.weights + plan.state + plan.programs
    if override is not None:
        num_pages = override
    elif kv_cache_memory_bytes is not None:
        num_pages = kv_cache_memory_bytes // max(plan.page_bytes, 1)
    else:
        free = plan.limit - fixed
        useful = max_num_seqs * plan.pages_for(plan.max_model_len) + 1
        if platform == "cpu":
            free = min(free, CPU_POOL_BYTES, useful * plan.page_bytes)
        if plan.page_bytes:
            num_pages = max(free, 0) // plan.page_bytes
        else:  # no layer has pages
            num_pages = useful if free >= 0 else 0
    plan = dataclasses.replace(plan, num_pages=_addressable(plan, num_pages))
    num_pages = plan.num_pages
    needed = plan.pages_for(plan.max_model_len) + 1
    if num_pages < 2 or (num_pages < needed and not auto):
        if override is not None:
            raise _too_small(plan, "num_gpu_blocks_override", override, needed)
        if kv_cache_memory_bytes is not None:
            raise _too_small(plan, "kv_cache_memory_bytes", kv_cache_memory_bytes, needed * plan.page_bytes)
        raise _refusal(plan, needed, max_num_seqs)
    if plan.total > plan.limit:
        raise OutOfMemory(
            "kv_cache_memory_bytes" if override is None else "num_gpu_blocks_override",
            f"the plan needs {_size(plan.total)} and {_size(plan.limit)} are allowed",
            f"lower it to at most {max(plan.limit - fixed, 0) // max(plan.page_bytes, 1):,} pages of "
            f"{plan.page_bytes:,} bytes each, or raise gpu_memory_utilization",
        )
    if num_pages < needed:
        plan = dataclasses.replace(plan, max_model_len=plan.longest)
    return plan


def _addressable(plan: MemoryPlan, num_pages: int) -> int:
    """Pallas counts an array's elements in 32 bits unless it has more than 2³² bytes, which is too few for arrays of
    eight bits between half of that and all of it (jax/_src/pallas/triton/lowering.py)."""
    if MAX_INT < num_pages * plan.narrow_page_bytes <= 2 * MAX_INT + 2:
        return MAX_INT // plan.narrow_page_bytes
    return num_pages


def _too_small(plan: MemoryPlan, knob: str, given: int, needed: int) -> OutOfMemory:
    """The user's own pool cannot hold one request."""
    problem = f"got {given:,}, and one request of {plan.max_model_len:,} tokens needs {needed:,}"
    fits = plan.longest
    lower = f", or set max_model_len to at most {fits:,} (or auto)" if fits else ""
    return OutOfMemory(knob, problem, f"use at least {needed:,}{lower}")


def _refusal(plan: MemoryPlan, needed: int, max_num_seqs: int) -> OutOfMemory:
    fixed = plan.weights + plan.state + plan.programs
    problem = (
        f"one request of {plan.max_model_len:,} tokens needs {_size(needed * plan.page_bytes)} of KV pool, and of "
        f"{_size(plan.limit)} allowed, weights ({_size(plan.weights)}), programs ({_size(plan.programs)}) and state "
        f"({_size(plan.state)}) leave {_size(plan.pool)}"
    )
    fits = plan.longest
    shorter = f"set it to at most {fits:,} (or auto)" if fits else ""
    if plan.slot_bytes:
        missing = fixed + needed * plan.page_bytes - plan.limit
        fewer = max_num_seqs - -(-missing // plan.slot_bytes)
        if fewer >= 1:
            problem += f", of which {max_num_seqs} recurrent states take {_size(max_num_seqs * plan.slot_bytes)}"
            other = f"; or max_model_len: {shorter}" if fits else ""
            return OutOfMemory("max_num_seqs", problem, f"set it to at most {fewer:,}{other}")
    if fits:
        return OutOfMemory("max_model_len", problem, f"{shorter}, or give the pool more memory")
    return OutOfMemory(
        "gpu_memory_utilization",
        problem,
        "raise it, lower max_num_batched_tokens or max_num_seqs, or use more devices (tensor_parallel_size): "
        f"{_size(fixed + needed * plan.page_bytes)} are needed in all",
    )


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB // 10 else f"{count / (1 << 20):.1f} MiB"
