"""Trains the demo model and its draft from nothing, in minutes on one GPU, and writes them as Hugging Face folders.

    python examples/train_demo_model.py --out OUT            # the real thing: one GPU, the corpus made on all cores
    python examples/train_demo_model.py --out OUT --smoke    # a minute on a CPU: proves the path, teaches nothing

The same seed and number of steps give the same corpus, tokenizer and order of documents. Writes OUT/model, OUT/draft
and OUT/log.json. Needs jax, flax, optax, tokenizers and safetensors.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a process a core already

import demo_corpus
import jax
import jax.numpy as jnp
import numpy as np
import optax
from demo import card, evaluate, export
from demo.model import DEMO, DRAFT, AttentionKind, Qwen3, Shape, pick_attention
from demo.tokenizer import LEARNED, STARTS, TOKEN, document_text, encode_documents, pack, train_tokenizer
from flax import nnx
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Recipe:
    """One training run: sizes of a step, its schedule, the most it may take."""

    rows: int  # a step
    length: int  # tokens a row
    steps: int
    minutes: float
    shards: int
    documents: int  # a shard
    questions: int  # a domain, in the evaluation
    answer: int = 144  # tokens an answer may have there
    peak: float = 3e-3
    warmup: int = 200
    decay: float = 0.35  # share of the steps in which the rate falls to zero
    chunk: int = 50  # steps a dispatch


DRAFT_STEPS = 1450  # enough for what so small a model can learn
FULL = Recipe(rows=32, length=2048, steps=5300, minutes=6, shards=256, documents=8000, questions=512)
SMOKE = Recipe(
    rows=8, length=256, steps=20, minutes=2, shards=2, documents=500, questions=2, answer=4, warmup=5, chunk=5
)


def _shard(path: str, recipe: Recipe, seed: int, shard: int) -> np.ndarray:
    tokenizer = Tokenizer.from_file(path)
    documents = demo_corpus.documents(seed, shard, recipe.documents)
    return pack(encode_documents(tokenizer, documents, shard), recipe.length)


def corpus(tokenizer: Tokenizer, recipe: Recipe, seed: int, out: Path) -> np.ndarray:
    """The packed corpus [rows, length] uint16, made on all cores before any device is touched."""
    path = out / "tokenizer.json"
    tokenizer.save(str(path))
    with multiprocessing.get_context("fork").Pool(min(os.cpu_count() or 1, recipe.shards)) as pool:
        shards = pool.map(partial(_shard, str(path), recipe, seed), range(recipe.shards), chunksize=1)
    path.unlink()
    return np.concatenate(shards)


def loss_of(model: Qwen3, packed: jax.Array) -> jax.Array:
    """packed [B, T] uint16 → mean loss of the tokens to learn."""
    tokens = (packed & TOKEN).astype(jnp.int32)
    document = jnp.cumsum((packed & STARTS) != 0, axis=1)
    logits = model.logits(model.hidden(tokens, document)[:, :-1])
    wanted = jnp.where(tokens[:, 1:, None] == jnp.arange(logits.shape[-1]), logits, 0).sum(-1)  # no scatter backwards
    loss = jax.nn.logsumexp(logits, axis=-1) - wanted
    learned = (packed[:, 1:] & LEARNED) != 0
    return jnp.where(learned, loss, 0).sum() / jnp.maximum(learned.sum(), 1)


def optimizer() -> optax.GradientTransformation:
    """Muon for the matrices of the layers, Adam for the embedding and the norms; the step multiplies in the rate."""

    def dimensions(params: Any) -> Any:
        def of(path: tuple, leaf: jax.Array) -> Any:
            return optax.contrib.MuonDimensionNumbers() if "kernel" in jax.tree_util.keystr(path) else None

        return jax.tree_util.tree_map_with_path(of, params)

    muon = optax.contrib.muon(
        learning_rate=1.0,
        adam_learning_rate=1.0,
        weight_decay=0.05,
        adam_weight_decay=0.0,
        adam_b2=0.98,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=dimensions,
    )
    return optax.chain(optax.clip_by_global_norm(1.0), muon)


def rate(step: np.ndarray, steps: int, recipe: Recipe) -> np.ndarray:
    """Warm up, stay, and fall in a line."""
    rise = np.minimum(1.0, (step + 1) / recipe.warmup)
    fall = np.clip((steps - step) / max(1.0, recipe.decay * steps), 0.0, 1.0)
    return (recipe.peak * rise * fall).astype(np.float32)


def build_steps(graph: Any, chain: optax.GradientTransformation) -> Callable:
    @partial(jax.jit, donate_argnums=(0, 1))
    def run(
        params: Any, moments: Any, data: jax.Array, chosen: jax.Array, rates: jax.Array
    ) -> tuple[Any, Any, jax.Array]:
        """chosen [steps, B] rows of data, rates [steps] → (params, moments, losses [steps])."""

        def step(carry: tuple, inputs: tuple) -> tuple:
            params, moments = carry
            rows, lr = inputs
            loss, grads = jax.value_and_grad(lambda p: loss_of(nnx.merge(graph, p), data[rows]))(params)
            updates, moments = chain.update(grads, moments, params)
            params = optax.apply_updates(params, jax.tree.map(lambda u: u * lr, updates))
            return (params, moments), loss

        (params, moments), losses = jax.lax.scan(step, (params, moments), (chosen, rates))
        return params, moments, losses

    return run


def train(
    shape: Shape, data: jax.Array, recipe: Recipe, seed: int, attention: AttentionKind
) -> tuple[Qwen3, dict[str, Any]]:
    """Trains within recipe.steps and recipe.minutes; when time is short the schedule shrinks to what fits."""
    dtype = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32
    graph, params = nnx.split(Qwen3(shape, nnx.Rngs(seed), dtype, attention))
    chain = optimizer()
    moments = chain.init(params)
    run = build_steps(graph, chain)
    rng, order = np.random.default_rng(seed), np.zeros(0, np.int64)
    losses: list[float] = []
    steps, began, warm = recipe.steps, time.perf_counter(), 0.0
    for chunk in count():
        first = chunk * recipe.chunk
        if first >= steps:
            break
        while len(order) < recipe.chunk * recipe.rows:
            order = np.concatenate([order, rng.permutation(len(data))])
        chosen, order = np.split(order, [recipe.chunk * recipe.rows])
        rates = rate(np.arange(first, first + recipe.chunk), steps, recipe)
        params, moments, lost = run(params, moments, data, chosen.reshape(recipe.chunk, -1).astype(np.int32), rates)
        losses.append(float(lost.mean()))
        now = time.perf_counter()
        if chunk == 0:
            warm = now
        if chunk == 2:  # compiled and warm: how many steps fit?
            pace = (now - warm) / (2 * recipe.chunk)
            fitting = int((recipe.minutes * 60 - (now - began)) / pace) + 3 * recipe.chunk
            steps = min(steps, fitting // recipe.chunk * recipe.chunk)
            speed = recipe.rows * recipe.length / pace / 1e6
            print(f"  {pace * 1e3:.1f} ms a step, {speed:.2f}M tokens/s, {steps} steps", flush=True)
        if chunk % 20 == 0:
            print(f"  step {first + recipe.chunk:6d}  loss {losses[-1]:.4f}  {now - began:6.1f} s", flush=True)
    seconds = time.perf_counter() - began
    log = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "steps": steps,
        "seconds": round(seconds, 1),
        "tokens": steps * recipe.rows * recipe.length,
        "loss": [round(loss, 4) for loss in losses],
    }
    served = jax.tree.map(lambda p: p.astype(jnp.bfloat16).astype(jnp.float32), params)  # judged as it will be stored
    return nnx.merge(graph, served), log


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the two models and the log")
    parser.add_argument(
        "--minutes", type=float, help="the most the demo model's training may take (the draft: a third of it)"
    )
    parser.add_argument("--steps", type=int, help="steps of the demo model's training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="tiny data and few steps")
    return parser.parse_args()


def main() -> None:
    args = options()
    recipe = SMOKE if args.smoke else FULL
    chosen = {"steps": args.steps, "minutes": args.minutes}
    recipe = Recipe(**(vars(recipe) | {name: value for name, value in chosen.items() if value is not None}))
    args.out.mkdir(parents=True, exist_ok=True)
    log: dict[str, Any] = {"seed": args.seed, "recipe": vars(recipe), "seconds": {}}
    clock = time.perf_counter()

    def done(part: str) -> None:
        nonlocal clock
        log["seconds"][part] = round(time.perf_counter() - clock, 1)
        print(f"{part}: {log['seconds'][part]} s", flush=True)
        (args.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")
        clock = time.perf_counter()

    # the tokenizer is the same for a smoke run: it is learned from documents of a shard that no training uses
    tokenizer = train_tokenizer(document_text(d) for d in demo_corpus.documents(args.seed, -1, 20000))
    done("tokenizer")
    packed = corpus(tokenizer, recipe, args.seed, args.out)
    log["corpus"] = {"rows": len(packed), "tokens": packed.size, "learned": round(float((packed >= LEARNED).mean()), 3)}
    print(f"corpus: {packed.size / 1e6:.1f}M tokens in {len(packed)} rows", flush=True)
    done("corpus")

    attention, data = pick_attention(), jax.device_put(packed)
    log |= {"device": jax.devices()[0].device_kind, "attention": attention, "jax": jax.__version__}
    demo, log["model"] = train(DEMO, data, recipe, args.seed, attention)
    done("train model")
    small = Recipe(**(vars(recipe) | {"steps": min(recipe.steps, DRAFT_STEPS), "minutes": recipe.minutes / 3}))
    draft, log["draft"] = train(DRAFT, data, small, args.seed + 1, attention)
    done("train draft")
    del data

    def save() -> None:
        for name, model, shape in (("model", demo, DEMO), ("draft", draft, DRAFT)):
            export.save_model(model, shape, tokenizer, card.card(name, log), args.out / name)

    save()  # before the evaluation, lest they be lost
    done("save")
    rows = evaluate.held_out_rows(tokenizer, args.seed, recipe.questions, recipe.length)
    log["model"]["held out"] = evaluate.held_out_loss(demo, rows, draft)
    log["draft"]["held out"] = evaluate.held_out_loss(draft, rows)
    done("held-out loss")
    log["model"]["exact match"] = evaluate.exact_match(demo, tokenizer, args.seed, recipe.questions, recipe.answer)
    done("exact match")
    log["samples"] = evaluate.samples(demo, tokenizer, 200 if recipe.answer > 100 else recipe.answer)
    done("samples")
    save()  # with what was measured in their cards
    print(card.table(log))
    for sample in log["samples"]:
        print(f"---\n{sample['prompt']}→ {sample['answer']}")


if __name__ == "__main__":
    main()
