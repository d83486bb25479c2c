"""Many requests at once on a CPU: the engine beside transformers' `generate`, one by one and as one padded batch.

    python -m benchmarks.cpu_vs_transformers [--model demo] [--requests 32] [--new-tokens 128] [--repeats 5]

One process, the same prompts, and contestants take turns, so that a busy machine slows all of them. Prompts are chats
of different lengths; end-of-sequence tokens are ignored, so that everyone makes the same number of tokens. transformers
runs in the checkpoint's dtype and in float32, with one thread and with all (on a busy machine torch's threads wait for
one another); in each round its fastest is what the engine is compared with. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import jax
import torch
import transformers

from jaxengine import LLM, SamplingParams
from jaxengine.prompts import TokensPrompt
from torch_compat import hub

OPENINGS = (
    "What is the capital of Portugal, and which continent is it on?",
    "Count from 7 to 15. Then say which of these numbers are even, and how many of them there are.",
    "Tell me a short story about a fox and a lighthouse.",
    "What is 348 plus 517? Answer with the number only.",
    "Which currency do people use in Japan?",
    "Please make a JSON record of a person named Ada, 36 years old, who lives in London and likes chess and rowing.",
    "I have three apples and I eat one of them. How many apples are left? Explain it in one sentence.",
    "Good morning! How are you today?",
)
Run = Callable[[list[list[int]]], int]  # prompts → number of new tokens
SYSTEMS = (None, "You are a helpful assistant.", "Your name is Robin. Answer in a single friendly sentence, please.")


class Transformers:
    """transformers' own model and `generate`, in one dtype."""

    def __init__(self, path: Path, dtype: str, new_tokens: int, greedy: bool) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype).eval()
        self.model.generation_config = transformers.GenerationConfig(
            max_new_tokens=new_tokens, do_sample=not greedy, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0
        )

    @torch.inference_mode()
    def one_by_one(self, prompts: list[list[int]], threads: int) -> int:
        """The number of new tokens."""
        torch.set_num_threads(threads)
        return sum(self.model.generate(torch.tensor([p])).shape[1] - len(p) for p in prompts)

    @torch.inference_mode()
    def batched(self, prompts: list[list[int]], threads: int) -> int:
        torch.set_num_threads(threads)
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        return self.model.generate(ids, attention_mask=mask)[:, longest:].numel()


def engine_run(llm: LLM, new_tokens: int, greedy: bool) -> Run:
    """LLM.generate, the prefix cache emptied before each run."""
    params = SamplingParams(max_tokens=new_tokens, ignore_eos=True, temperature=0.0 if greedy else 1.0)

    def run(prompts: list[list[int]]) -> int:
        llm.reset_prefix_cache()
        outputs = llm.generate([TokensPrompt(prompt_token_ids=p) for p in prompts], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def make_prompts(llm: LLM, count: int) -> list[list[int]]:
    """Chats of 15 to 100 tokens or so, no two alike."""
    tokenizer, prompts = llm.get_tokenizer(), []
    for i in range(count):
        system, opening = SYSTEMS[i % len(SYSTEMS)], OPENINGS[i % len(OPENINGS)]
        messages = [{"role": "system", "content": system}] if system else []
        if i % 4 == 3:
            messages += [
                {"role": "user", "content": OPENINGS[i // 3 % len(OPENINGS)]},
                {"role": "assistant", "content": "Gladly. What else would you like to know?"},
            ]
        messages.append({"role": "user", "content": f"{opening} ({i})"})
        prompts.append(tokenizer.encode(tokenizer.render_chat(messages), add_special_tokens=False))
    return prompts


def main() -> None:
    arguments = parse()
    llm = LLM(arguments.model, **{"max_num_seqs": arguments.requests} | json.loads(arguments.engine))
    prompts = make_prompts(llm, arguments.requests)
    few = prompts[:: max(1, arguments.requests // arguments.one_by_one)]
    contestants: dict[str, tuple[Run, list[list[int]]]] = {
        "jaxengine": (engine_run(llm, arguments.new_tokens, arguments.greedy), prompts)
    }
    for dtype in ("auto", "float32"):
        theirs = Transformers(hub.resolve(arguments.model), dtype, arguments.new_tokens, arguments.greedy)
        for threads in sorted({1, os.cpu_count() or 1}):
            name = f"transformers {theirs.model.dtype}, {threads} threads".replace("torch.", "")
            contestants[f"{name}, batched"] = functools.partial(theirs.batched, threads=threads), prompts
            contestants[f"{name}, one by one"] = functools.partial(theirs.one_by_one, threads=threads), few
    speeds = take_turns(contestants, arguments.repeats, arguments.new_tokens)
    ratios = {
        opponent: ratio(speeds, [name for name in speeds if name.endswith(opponent)])
        for opponent in ("one by one", "batched")
    }
    for name, values in speeds.items():
        print(
            f"{name:45} {statistics.median(values):8.0f} tokens/s   (rounds: {', '.join(f'{v:.0f}' for v in values)})"
        )
    for opponent, value in ratios.items():
        print(f"{'jaxengine / fastest transformers, ' + opponent:45} {value:8.2f}")
    if arguments.out:
        report = {
            "benchmark": "cpu_vs_transformers",
            "date": date.today().isoformat(),
            "command": " ".join(["python -m benchmarks.cpu_vs_transformers", *sys.argv[1:]]),
            "machine": {"cpus": os.cpu_count(), "processor": processor(), "load": os.getloadavg()[1]},
            "versions": {"python": platform.python_version()}
            | {module.__name__: module.__version__ for module in (jax, torch, transformers)},
            "model": {"name": arguments.model, "engine_dtype": str(llm.engine.model_config.dtype)},
            "requests": arguments.requests,
            "requests_one_by_one": len(few),
            "new_tokens": arguments.new_tokens,
            "prompt_tokens": {"least": min(map(len, prompts)), "most": max(map(len, prompts))},
            "sampling": "greedy" if arguments.greedy else "temperature 1",
            "tokens_per_s": {
                name: {"median": round(statistics.median(values), 1), "rounds": [round(v, 1) for v in values]}
                for name, values in speeds.items()
            },
            "ratios": ratios,
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    llm.close()


def take_turns(
    contestants: dict[str, tuple[Run, list[list[int]]]], repeats: int, new_tokens: int
) -> dict[str, list[float]]:
    """Tokens per second of every run. One run each goes before: what libraries set up at first use is not measured."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name, (run, prompts) in contestants.items():
            start = time.perf_counter()
            made = run(prompts if repeat else prompts[:2] if "one by one" in name else prompts)
            speed = made / (time.perf_counter() - start)
            if repeat and made != len(prompts) * new_tokens:
                raise RuntimeError(f"{name} made {made} tokens, not {len(prompts)} x {new_tokens}")
            if repeat:
                speeds[name].append(speed)
            print(f"{repeat or 'warm-up'}: {name:45} {speed:8.0f} tokens/s", file=sys.stderr, flush=True)
    return speeds


def ratio(speeds: dict[str, list[float]], opponents: list[str]) -> float:
    """Median over the rounds of the engine's speed over that round's fastest opponent's."""
    fastest = [max(speed) for speed in zip(*(speeds[name] for name in opponents), strict=True)]
    return round(statistics.median(ours / best for ours, best in zip(speeds["jaxengine"], fastest, strict=True)), 2)


def processor() -> str:
    """The CPU's name, where Linux says it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a local directory or a hub name")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--one-by-one", type=int, default=8, help="about so many of the requests go one by one")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--greedy", action="store_true", help="temperature 0 instead of 1, for everyone")
    parser.add_argument(
        "--engine", default="{}", help="more arguments of LLM, as JSON; max_num_seqs is the number of requests"
    )
    parser.add_argument("--out", type=Path, help="also write the results here, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
