"""The offline API: `LLM(model).generate(prompts)`, with vLLM's names.

It builds an engine and runs it in the caller's thread until the requests it was given are finished.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from tqdm.auto import tqdm

from jaxengine.arguments import engine_config
from jaxengine.beam_search import BeamSearchOutput, beam_search
from jaxengine.chat_template import read_template
from jaxengine.engine import Engine
from jaxengine.metrics import Metric
from jaxengine.prompts import Prompt, PromptLike, prompt_list, read_prompts
from jaxengine.request import BeamSearchParams, InvalidRequest, RequestOutput, RequestOutputKind, SamplingParams
from jaxengine.tokenizer import Tokenizer, require_tokenizer

Conversation = list[dict[str, Any]]
Progress = bool | Callable[..., tqdm]
Deltas = Generator[RequestOutput, None, None]


class LLM:
    """A model, ready to generate. The keyword arguments are EngineConfig's fields, which are vLLM's names.

    A context manager: leaving it, or `close()`, gives the device's memory back. Not for several threads at once; that
    is what AsyncEngine is for.
    """

    def __init__(self, model: str = "demo", *, chat_template: str | Path | None = None, **arguments: Any) -> None:
        """`chat_template`: Jinja source or a file of it, in place of the model's. Raises InvalidRequest."""
        from jaxengine.build import build_engine

        self._open(build_engine(engine_config(model=model, **arguments)), chat_template)

    @classmethod
    def from_torch(
        cls, module: Any, tokenizer: Any = None, *, chat_template: str | Path | None = None, **arguments: Any
    ) -> LLM:
        """An LLM with the weights of a live causal language model of transformers, which stays as it is.

        tokenizer: transformers', or None to work with token ids. The other arguments are those of LLM.
        """
        from jaxengine.build import engine_of_module

        return cls.from_engine(engine_of_module(module, tokenizer, arguments), chat_template)

    @classmethod
    def from_engine(cls, engine: Engine, chat_template: str | Path | None = None) -> LLM:
        llm = cls.__new__(cls)
        llm._open(engine, chat_template)
        return llm

    def _open(self, engine: Engine, chat_template: str | Path | None) -> None:
        self._engine: Engine | None = engine
        self._chat_template = read_template(chat_template)
        self._ids = itertools.count()
        self._finished: dict[str, RequestOutput] = {}  # of requests that nobody has asked for yet
        self._enqueued: list[str] = []

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("this LLM was closed; make another one")
        return self._engine

    # Generation

    def generate(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: Progress = True,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """One finished output per prompt, in the order of the prompts.

        prompts: text, token ids, {"prompt": …} or {"prompt_token_ids": …}, or a list of these.
        sampling_params: for all, or one per prompt; by default what the model's authors recommend.
        priority: lower runs earlier, with scheduling_policy="priority".
        Raises InvalidRequest for a prompt or parameters that cannot be served; then nothing has run, unless it is a
        grammar that cannot be compiled.
        """
        read = self._read(prompt_list(prompts), tokenization_kwargs)
        return self._wait(self._add(read, sampling_params, priority), use_tqdm)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: Progress = True,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        documents: Sequence[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """`generate` for conversations, each rendered by the chat template. One conversation or a list of them."""
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            raise InvalidRequest("messages", f"got a {type(messages).__name__}", "give a list of messages")
        conversations: Sequence[Any] = [messages] if messages and isinstance(messages[0], dict) else messages
        prompts = self._render(
            conversations,
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            documents=documents,
            **(chat_template_kwargs or {}),
        )
        return self._wait(self._add(prompts, sampling_params, priority), use_tqdm)

    def stream(self, prompt: PromptLike, sampling_params: SamplingParams | None = None) -> Deltas:
        """One request's deltas as they come. Closing the iterator aborts the request."""
        return self._stream(self._read([prompt], None), sampling_params)

    def stream_chat(
        self, messages: Conversation, sampling_params: SamplingParams | None = None, **template: Any
    ) -> Deltas:
        """`stream` for one conversation; `template` as for `Tokenizer.render_chat`."""
        return self._stream(self._render([messages], **template), sampling_params)

    def beam_search(
        self, prompts: PromptLike | Sequence[PromptLike], params: BeamSearchParams, *, use_tqdm: Progress = False
    ) -> list[BeamSearchOutput]:
        """The `beam_width` best continuations of each prompt, best first; `text` is the prompt's and the beam's."""
        read = self._read(prompt_list(prompts), None)
        with _bar(use_tqdm, params.max_tokens, "Beam search", "token") as bar:
            outputs = beam_search(
                read,
                params,
                lambda requests, one_token: self._wait(self._add(requests, one_token), False),
                eos_token_ids=self.engine.eos_token_ids,
                max_model_len=self.engine.max_model_len,
                on_step=bar.update,
            )
        if (tokenizer := self.engine.tokenizer) is not None:
            for output in outputs:
                for beam in output.sequences:
                    beam.text = tokenizer.decode(beam.tokens, skip_special_tokens=True)
        return outputs

    def enqueue(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
    ) -> list[str]:
        """`generate` without waiting: the requests' ids, for `wait_for_completion`."""
        ids = self._add(self._read(prompt_list(prompts), tokenization_kwargs), sampling_params, priority)
        self._enqueued += ids
        return ids

    def wait_for_completion(self, *, use_tqdm: Progress = True) -> list[RequestOutput]:
        """Run until every enqueued request is finished; their outputs in the order they were enqueued."""
        ids, self._enqueued = self._enqueued, []
        return self._wait(ids, use_tqdm)

    # About the engine

    def get_tokenizer(self) -> Tokenizer:
        return require_tokenizer(self.engine.tokenizer, "get_tokenizer")

    def get_default_sampling_params(self) -> SamplingParams:
        """From the model's generation_config.json, unless generation_config="vllm"."""
        return SamplingParams(**self.engine.sampling_defaults)

    def get_metrics(self) -> list[Metric]:
        return list(self.engine.metrics.values())

    def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        """Forget every cached page; False while requests hold some."""
        return self.engine.reset_prefix_cache(reset_running_requests)

    def update_weights(
        self, weights: Iterable[tuple[str, Any]], *, requests: Literal["preempt", "pause"] = "preempt"
    ) -> None:
        """Exchange weights for new ones, given by the names they have in a checkpoint; nothing is compiled again.

        Arrays may be of torch, numpy or jax. Those that make one weight here (queries, keys and values of a layer) must
        come together; what does not come stays. requests: enqueued ones that have begun are computed again with the new
        weights up to where they are ("preempt"), or wait and go on from the keys and values that they have ("pause").
        The prefix cache begins anew. Raises ValueError for a name, or a shape, that the model does not have; then
        nothing has changed.
        """
        from jaxengine.build import fresh_weights

        if requests not in ("preempt", "pause"):
            raise InvalidRequest("requests", f"got {requests!r}", "use preempt or pause")
        self.engine.update_weights(fresh_weights(self.engine, weights), preempt=requests == "preempt")

    def close(self) -> None:
        """Give the device's memory back. Closing twice is fine."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # How requests run

    def _read(self, prompts: list[Any], tokenization_kwargs: dict[str, Any] | None) -> list[Prompt]:
        options = dict(tokenization_kwargs or {})
        special = options.pop("add_special_tokens", True)
        if options:
            raise InvalidRequest("tokenization_kwargs", f"unknown: {', '.join(options)}", "use add_special_tokens")
        return read_prompts(prompts, self.engine.tokenizer, add_special_tokens=special)

    def _render(self, conversations: Sequence[Conversation], **template: Any) -> list[Prompt]:
        tokenizer = require_tokenizer(self.engine.tokenizer, "chat")
        template["chat_template"] = template.get("chat_template") or self._chat_template
        texts = [tokenizer.render_chat(conversation, **template) for conversation in conversations]
        return read_prompts(texts, tokenizer, add_special_tokens=False)

    def _add(
        self,
        prompts: list[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: int | Sequence[int] | None = None,
        kind: RequestOutputKind = RequestOutputKind.FINAL_ONLY,
    ) -> list[str]:
        """Queue all or, when one is refused, none."""
        params = _one_each("sampling_params", sampling_params or self.get_default_sampling_params(), len(prompts))
        priorities = _one_each("priority", priority or 0, len(prompts))
        params_of_kind = {id(p): p.clone(output_kind=kind) for p in params}
        ids: list[str] = []
        try:
            for prompt, p, place in zip(prompts, params, priorities, strict=True):
                request_id = str(next(self._ids))
                self.engine.add(
                    request_id,
                    prompt.token_ids,
                    params_of_kind[id(p)],
                    prompt=prompt.text,
                    priority=place,
                    cache_salt=prompt.cache_salt,
                )
                ids.append(request_id)
        except BaseException:
            self.engine.abort(ids)
            raise
        return ids

    def _wait(self, ids: list[str], use_tqdm: Progress) -> list[RequestOutput]:
        """Step until these are finished. Whatever interrupts it aborts them."""
        waiting = set(ids) - self._finished.keys()
        start, prompt_tokens, new_tokens = time.perf_counter(), 0, 0
        try:
            for request_id in ids:
                _raise_refusal(self._finished.get(request_id))
            with _bar(use_tqdm, len(ids), "Processed prompts", "prompt") as bar:
                while waiting:
                    if not self.engine.has_unfinished():
                        raise RuntimeError(f"the engine lost requests {sorted(waiting)}")
                    for output in self.engine.step():
                        if output.finished:
                            self._finished[output.request_id] = output
                        if output.request_id in waiting:
                            _raise_refusal(output)
                            waiting.remove(output.request_id)
                            prompt_tokens += len(output.prompt_token_ids or ()) * len(output.outputs)
                            new_tokens += sum(len(completion.token_ids) for completion in output.outputs)
                            speed = 1 / max(time.perf_counter() - start, 1e-9)
                            bar.set_postfix_str(
                                f"input {prompt_tokens * speed:.2f} tok/s, output {new_tokens * speed:.2f} tok/s", False
                            )
                            bar.update()
        except BaseException:
            self.engine.abort(waiting)
            for request_id in ids:
                self._finished.pop(request_id, None)
            raise
        return [self._finished.pop(request_id) for request_id in ids]

    def _stream(self, prompts: list[Prompt], sampling_params: SamplingParams | None) -> Deltas:
        (request_id,) = self._add(prompts, sampling_params, kind=RequestOutputKind.DELTA)

        def outputs() -> Deltas:
            try:
                while self.engine.has_unfinished():
                    for output in self.engine.step():
                        if output.request_id == request_id:
                            _raise_refusal(output)
                            yield output
                            if output.finished:
                                return
                        elif output.finished:
                            self._finished[output.request_id] = output
            finally:
                if self._engine is not None:
                    self._engine.abort([request_id])

        return outputs()


def _bar(use_tqdm: Progress, total: int, description: str, unit: str) -> tqdm:
    make = use_tqdm if callable(use_tqdm) else tqdm
    return make(total=total, desc=description, unit=unit, dynamic_ncols=True, disable=not use_tqdm)


def _raise_refusal(output: RequestOutput | None) -> None:
    if output is not None and output.error is not None:
        raise output.error


def _one_each(name: str, values: Any, count: int) -> list[Any]:
    """A single value for all, or as many as there are prompts."""
    if not isinstance(values, Iterable):
        return [values] * count
    values = list(values)
    if len(values) != count:
        raise InvalidRequest(name, f"{len(values)} for {count} prompts", "give one for all or one for each")
    return values
