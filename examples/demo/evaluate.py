"""How good the demo model is: held-out loss, and exact match of greedy answers to held-out questions.

Called by examples/train_demo_model.py. Decoding recomputes the whole row for every token: the simplest thing that is
right, and fast enough for a model of this size.
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import demo_corpus
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tokenizers import Tokenizer

from demo.kinds import Conversation, Message, says
from demo.render import END_OF_TEXT, END_OF_TURN, rendered
from demo.tokenizer import LEARNED, STARTS, TOKEN, encode_documents, pack


@dataclass(frozen=True)
class Question:
    prompt: str
    answer: str


def _asked(messages: list[Message], tools: tuple[dict[str, Any], ...], answer: Message) -> Question:
    prompt = rendered(tuple(messages), tools) + "<|im_start|>assistant\n"
    whole = rendered((*messages, answer), tools)
    return Question(prompt, whole[len(prompt) :].removesuffix(END_OF_TURN + "\n"))


def questions(conversations: list[Conversation], calls: bool = False) -> list[Question]:
    """The last answer of each conversation, or the tool call before it."""
    found = []
    for conversation in conversations:
        messages = list(conversation.messages)
        last = max(i for i, m in enumerate(messages[: -1 if calls else None]) if m["role"] == "assistant")
        found.append(_asked(messages[:last], conversation.tools, messages[last]))
    return found


@partial(jax.jit, static_argnums=0, static_argnames="steps")
def _greedy(graph: Any, state: Any, tokens: jax.Array, length: jax.Array, ends: jax.Array, *, steps: int) -> jax.Array:
    """tokens [B, T] with `length` [B] tokens of prompt → [B, T] with up to `steps` tokens appended to each row."""
    model = nnx.merge(graph, state)
    rows = jnp.arange(tokens.shape[0])

    def unfinished(carry: tuple) -> jax.Array:
        _, _, done, step = carry
        return (step < steps) & ~done.all()

    def append(carry: tuple) -> tuple:
        tokens, length, done, step = carry
        hidden = model.hidden(tokens, jnp.zeros_like(tokens))[rows, length - 1]
        new = model.logits(hidden).argmax(-1).astype(tokens.dtype)
        tokens = tokens.at[rows, jnp.where(done, tokens.shape[1], length)].set(new, mode="drop")
        done |= (new[:, None] == ends).any(-1)
        return tokens, jnp.where(done, length, length + 1), done, step + 1

    start = (tokens, length, jnp.zeros(len(tokens), bool), 0)
    return jax.lax.while_loop(unfinished, append, start)[0]


def generate(model: nnx.Module, tokenizer: Tokenizer, prompts: list[str], steps: int) -> list[str]:
    """Greedy continuations; each ends before its first end-of-turn or end-of-text token, or after `steps` tokens."""
    encoded = [e.ids for e in tokenizer.encode_batch(prompts, add_special_tokens=False)]
    width = -(-(max(map(len, encoded)) + steps) // 128) * 128
    ends = [tokenizer.token_to_id(END_OF_TURN), tokenizer.token_to_id(END_OF_TEXT)]
    tokens = np.full((len(prompts), width), ends[1], np.int32)
    for row, ids in zip(tokens, encoded, strict=True):
        row[: len(ids)] = ids
    graph, state = nnx.split(model)
    length = np.array([len(ids) for ids in encoded], np.int32)
    out = np.asarray(_greedy(graph, state, tokens, length, np.array(ends, np.int32), steps=steps))
    texts = []
    for row, ids in zip(out, encoded, strict=True):
        new = row[len(ids) : len(ids) + steps].tolist()
        stop = next((i for i, token in enumerate(new) if token in ends), steps)
        texts.append(tokenizer.decode(new[:stop], skip_special_tokens=False))
    return texts


def _right(domain: str, answer: str, wanted: str) -> bool:
    if domain != "json":
        return answer == wanted
    try:  # an invented record is right when it is JSON with the keys asked for
        made, like = json.loads(answer), json.loads(wanted)
    except ValueError:
        return False
    keys = [list(r) if isinstance(r, dict) else None for r in (made if isinstance(made, list) else [made])]
    return keys == [list(r) for r in (like if isinstance(like, list) else [like])]


def exact_match(
    model: nnx.Module, tokenizer: Tokenizer, seed: int, count: int, steps: int
) -> dict[str, dict[str, Any]]:
    """domain → share of right answers to `count` held-out questions, and some that went wrong."""
    table = {}
    for domain in (*demo_corpus.EXACT, "json", "tool calls"):
        source = demo_corpus.TOOLS if domain == "tool calls" else domain
        asked = questions(demo_corpus.held_out_conversations(seed, source, count), calls=domain == "tool calls")
        answers = generate(model, tokenizer, [q.prompt for q in asked], steps)
        right = [_right(domain, a, q.answer) for a, q in zip(answers, asked, strict=True)]
        wrong = [
            {"prompt": q.prompt[-200:], "answer": a, "wanted": q.answer}
            for q, a, ok in zip(asked, answers, right, strict=True)
            if not ok
        ]
        name = "tool answers" if domain == demo_corpus.TOOLS else domain
        table[name] = {"right": sum(right) / len(right), "questions": len(right), "wrong": wrong[:5]}
    return table


@partial(jax.jit, static_argnums=0)
def _losses(graph: Any, state: Any, packed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """packed [B, T] uint16 → (loss, whether it counts, most likely token), each [B, T-1]."""
    model = nnx.merge(graph, state)
    tokens = (packed & TOKEN).astype(jnp.int32)
    document = jnp.cumsum((packed & STARTS) != 0, axis=1)
    logits = model.logits(model.hidden(tokens, document)[:, :-1])
    loss = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, tokens[:, 1:, None], -1)[..., 0]
    return loss, (packed[:, 1:] & LEARNED) != 0, logits.argmax(-1)


def held_out_rows(tokenizer: Tokenizer, seed: int, count: int, width: int) -> dict[str, np.ndarray]:
    """domain → held-out documents, packed [rows, width] uint16, with as many rows for each: one program serves all."""
    rows = {}
    for domain in (*demo_corpus.EXCHANGES, demo_corpus.MEMORY, demo_corpus.TOOLS):
        made = demo_corpus.held_out_conversations(seed + 1, domain, count)
        rows[domain] = pack(encode_documents(tokenizer, made, seed), width)
    height = max(map(len, rows.values()))
    return {name: np.concatenate([r, np.full((height - len(r), width), STARTS, np.uint16)]) for name, r in rows.items()}


def held_out_loss(model: nnx.Module, rows: dict[str, np.ndarray], draft: nnx.Module | None = None) -> dict[str, Any]:
    """Mean loss a learned token, by domain and over all; with a draft also how often its best guess is the model's."""
    losses, total, weight, agreed = {}, 0.0, 0, 0
    for domain, packed in rows.items():
        loss, counts, best = map(np.asarray, _losses(*nnx.split(model), packed))
        losses[domain] = round(float(loss[counts].mean()), 4)
        total, weight = total + float(loss[counts].sum()), weight + int(counts.sum())
        if draft is not None:
            guess = np.asarray(_losses(*nnx.split(draft), packed)[2])
            agreed += int((guess == best)[counts].sum())
    result: dict[str, Any] = {"all": round(total / weight, 4), "domains": losses}
    return result if draft is None else result | {"draft agrees": round(agreed / weight, 4)}


SAMPLES: tuple[tuple[Message, ...], ...] = (
    (says("user", "Hello!"),),
    (says("user", "Who are you?"),),
    (says("system", "You are Nova, a helpful assistant."), says("user", "What is your name?")),
    (says("user", "What is the capital of France?"),),
    (says("system", "Answer as briefly as possible."), says("user", "What is the capital of Japan?")),
    (says("user", "What is 17 + 25?"),),
    (says("user", "How much is 804 - 367?"),),
    (says("user", "What is 12 times 12?"),),
    (says("user", "Count from 3 to 12."),),
    (says("user", "Give me a person as JSON with name, age and city."),),
    (says("user", "Tell me a story about a fox."),),
    (says("user", "Tell me a joke."),),
    (
        says("user", "My name is Alice."),
        says("assistant", "Nice to meet you, Alice!"),
        says("user", "What is 3 + 4?"),
        says("assistant", "3 + 4 = 7."),
        says("user", "What is my name?"),
    ),
)
COMPLETIONS = (
    "The capital of France is",
    "Once upon a time",
    "2 + 3 =",
    "Hello, my name is",
    "1, 2, 3, 4,",
    "Water boils at",
)


def samples(model: nnx.Module, tokenizer: Tokenizer, steps: int) -> list[dict[str, str]]:
    """Greedy answers to a fixed set of prompts."""
    prompts = [rendered(m) + "<|im_start|>assistant\n" for m in SAMPLES] + list(COMPLETIONS)
    answers = generate(model, tokenizer, prompts, steps)
    return [{"prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)]
