"""A model whose weights are resident: its programs, its pages, its requests."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ollamapy import _core
from ollamapy.engine.blocks import BlockManager
from ollamapy.engine.constrained import Grammars
from ollamapy.engine.embedding import EmbeddingLane, Text
from ollamapy.engine.generation import Generation, Limits, shortened
from ollamapy.engine.lane import GenerationLane
from ollamapy.engine.loop import StepLoop
from ollamapy.engine.memory import plan_pages
from ollamapy.engine.ports import CoreSequence
from ollamapy.engine.stream import TextStream
from ollamapy.models import check
from ollamapy.models.architecture import Architecture
from ollamapy.models.bert import Bert
from ollamapy.models.lora import Adapter, new_graph, read_adapter
from ollamapy.types import (
    ContextLengthError,
    Delta,
    EngineError,
    GenerationRequest,
    RequestError,
    UnsupportedModelError,
)

ANSWER_LIMIT = 10  # times num_ctx: no answer is longer

_arrivals = itertools.count()


@dataclass(frozen=True, slots=True)
class Settings:
    """What bounds a step and the memory of a model."""

    prefill_rows: int = 256  # prompt rows in a step, beside the decoding ones
    max_sequences: int = 64  # requests of a model that run at once; the others wait
    kv_memory: int = 1 << 30  # bytes of the KV pages of a model
    prefix_cache: bool = True  # whether requests share the pages of equal beginnings
    kv_type: str = "f16"  # what they hold: f16, q8_0 or q4_0


@dataclass(frozen=True, slots=True)
class Load:
    """Requests, and KV pages by layer group, at a moment."""

    running: int = 0
    waiting: int = 0
    pages: tuple[int, ...] = ()
    free: tuple[int, ...] = ()
    idle: tuple[int, ...] = ()


@dataclass(slots=True)
class Parts:
    """What loading a file yields: everything that takes long, made off the event loop."""

    file: _core.GGUFFile
    architecture: Architecture
    tokenizer: _core.Tokenizer
    weights: _core.Weights
    adapter: Adapter | None
    program: _core.Program

    def graph(self) -> _core.Graph:
        return new_graph(self.weights, self.adapter)


def read_parts(path: str, device: _core.Device, settings: Settings, adapter_path: str = "") -> Parts:
    """Check a file, read its weights, compile its main program: the generating one, or that of an embedding
    model. adapter_path, if not empty, is a LoRA that is applied.

    Raises UnsupportedModelError before a weight is read, GGUFError, OSError, MemoryError.
    """
    file = _core.GGUFFile(path)
    architecture = check(file)
    adapter = read_adapter(_core.GGUFFile(adapter_path), file) if adapter_path else None
    weights = _core.Weights(file, device, None if adapter is None else adapter.file)
    graph = new_graph(weights, adapter)
    with ThreadPoolExecutor(1) as side:  # the vocabulary beside the weights, neither with the GIL
        tokenizer = side.submit(_core.Tokenizer, file)
        try:
            program = _compile(architecture, graph, settings)
        except (_core.GGUFError, RequestError):
            raise
        except (ValueError, KeyError) as error:  # what the graph says of shapes
            raise UnsupportedModelError(f"the tensors do not fit the hyperparameters: {error}") from None
        return Parts(file, architecture, tokenizer.result(), weights, adapter, program)


def _compile(architecture: Architecture, graph: _core.Graph, settings: Settings) -> _core.Program:
    if isinstance(architecture, Bert):
        # A text is never split, so a step has room for the longest.
        rows = max(architecture.context_length, settings.prefill_rows)
        return graph.compile(architecture.pooled(graph), rows, settings.max_sequences)
    rows = settings.prefill_rows + settings.max_sequences
    return graph.compile(architecture.logits(graph), rows, settings.max_sequences, settings.kv_type)


class Model:
    """See LoadedModel in ollamapy.engine.protocol."""

    def __init__(self, parts: Parts, settings: Settings, loop: StepLoop) -> None:
        """Raises MemoryError when the KV pages do not fit."""
        self.file = parts.file
        self.tokenizer = parts.tokenizer
        self.architecture = parts.architecture.name
        self.context_length = parts.architecture.context_length
        self.embedding_length = parts.architecture.width
        self.vocabulary = parts.file.tensor("token_embd.weight").shape[1]
        self.can_generate = not parts.architecture.bidirectional
        self.can_embed = parts.architecture.bidirectional or parts.architecture.pooling != "cls"
        self._parts: Parts | None = parts
        self._settings = settings
        self._loop = loop
        self._grammars = Grammars(parts.tokenizer)
        self._generation: GenerationLane | None = None
        self._embedding: EmbeddingLane | None = None
        self._embedding_lock = asyncio.Lock()
        self._pools: list[tuple[_core.Program, BlockManager]] = []
        if isinstance(parts.architecture, Bert):
            program = parts.program
            pages = -(-program.max_rows // _core.PAGE_TOKENS) + program.max_outputs
            self._embedding = self._embedding_lane(program, [pages], program.max_rows, None)
        else:
            counts = self._plan(parts.program, settings.max_sequences)
            cache, blocks = self._pool(parts.program, counts, settings.prefix_cache)
            self._generation = GenerationLane(
                parts.program, cache, blocks, settings.prefill_rows, settings.max_sequences
            )
            loop.add(self._generation)

    @property
    def nbytes(self) -> int:
        if self._parts is None:
            return 0
        programs = [program for program, _ in self._pools]
        return self._parts.weights.nbytes + self._kv_bytes(True) + sum(p.arena_bytes for p in programs)

    @property
    def promised_bytes(self) -> int:
        """Bytes of KV pages that may be taken yet."""
        return self._kv_bytes(False) - self._kv_bytes(True)

    @property
    def capacity(self) -> int:
        """Most tokens of one sequence: the model's context, or what its KV pages hold if that is less."""
        pools = [blocks.capacity(self._settings.prefill_rows) for _, blocks in self._pools]
        return min([self.context_length, *pools])

    def load(self) -> Load:
        """How its queue and its KV pages stand."""
        lane = self._generation
        if lane is None:
            return Load()
        tree = lane.blocks.tree
        return Load(lane.running, lane.waiting, tree.total, tree.free, tree.idle)

    @property
    def preemptions(self) -> int:
        """How often a request gave its pages to an older one."""
        return 0 if self._generation is None else self._generation.preemptions

    # Generation

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        limits = self._limits(request)
        prompt = self._prompt(request, limits)
        seed = request.sampling.seed
        drawn = secrets.randbits(63) if seed is None else seed
        self._sampling(request, limits, drawn, 0)  # what is wrong with it is said here, before anything runs
        return self._generate(request, limits, prompt, drawn)

    async def _generate(
        self, request: GenerationRequest, limits: Limits, prompt: list[int], seed: int
    ) -> AsyncGenerator[Delta, None]:
        constrained = request.constraint is not None
        masks = None if request.constraint is None else await self._grammars.masks(request.constraint)
        lane = self._generation
        if lane is None or self._parts is None:
            raise EngineError("the model was unloaded")

        def new_sequence(tokens: list[int], branch: int) -> CoreSequence:
            return _core.Sequence(tokens, self._sampling(request, limits, seed, branch), constrained)

        stream = TextStream(
            self.tokenizer,
            _core.Detokenizer(self.tokenizer),
            request.stop,
            request.logprobs,
            request.visible,
        )
        job = Generation(
            next(_arrivals),
            request.client,
            prompt,
            limits,
            stream,
            self.tokenizer.eog,
            new_sequence,
            lane.blocks,
            masks,
            self._loop.wake,
            request.usage,
        )
        if len(prompt) >= limits.num_ctx:
            job.end_now("length")
        else:
            lane.add(job)
            self._loop.wake()
        try:
            while True:
                delta = await job.next()
                yield delta
                if delta.done_reason is not None:
                    return
        finally:
            lane.cancel(job)
            self._loop.wake()  # its pages may be what another one waits for

    def _limits(self, request: GenerationRequest) -> Limits:
        if not self.can_generate:
            raise RequestError(f"architecture '{self.architecture}' does not generate")
        num_ctx = min(max(request.num_ctx, 4), self.capacity)
        keep = len(request.prompt) if request.num_keep < 0 else request.num_keep
        keep += self.tokenizer.add_bos  # without its first token a model loses its footing
        most = ANSWER_LIMIT * num_ctx
        predict = min(request.num_predict, most) if request.num_predict > 0 else most
        return Limits(num_ctx, keep, predict, request.shift)

    def _prompt(self, request: GenerationRequest, limits: Limits) -> list[int]:
        prompt = list(request.prompt)
        self._check_tokens(prompt)
        if len(prompt) > limits.num_ctx and not (request.truncate and request.shift):
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens, the context length is {limits.num_ctx}: shorten the "
                "prompt, raise num_ctx or use a model with a longer context"
            )
        # A prompt that fills the window leaves no room for an answer.
        return shortened(prompt, limits) if len(prompt) >= limits.num_ctx and limits.shift else prompt

    def _sampling(
        self, request: GenerationRequest, limits: Limits, seed: int, branch: int
    ) -> _core.SamplingParams:
        options = request.sampling
        try:
            return _core.SamplingParams(
                temperature=options.temperature,
                top_k=options.top_k,
                top_p=options.top_p,
                min_p=options.min_p,
                typical_p=options.typical_p,
                repeat_penalty=options.repeat_penalty,
                presence_penalty=options.presence_penalty,
                frequency_penalty=options.frequency_penalty,
                repeat_last_n=limits.num_ctx if options.repeat_last_n < 0 else options.repeat_last_n,
                seed=seed,
                branch=request.branch << 32 | branch,
                logprobs=request.logprobs,
                logit_bias=list(options.logit_bias.items()),
            )
        except (ValueError, TypeError) as error:
            raise RequestError(str(error)) from error

    # Embedding

    async def embed(self, inputs: list[list[int]]) -> NDArray[np.float32]:
        if not self.can_embed:
            raise RequestError(f"architecture '{self.architecture}' does not embed")
        lane = await self._prepare_embedding()
        most = min(self.context_length, lane.blocks.capacity(self._settings.prefill_rows))
        for tokens in inputs:
            self._check_tokens(tokens)
            if len(tokens) > most:
                raise ContextLengthError(f"an input has {len(tokens)} tokens, the context length is {most}")
        texts: list[Text] = [lane.add(tokens) for tokens in inputs]
        self._loop.wake()
        try:
            vectors = await asyncio.gather(*(text.vector for text in texts), return_exceptions=True)
        finally:
            lane.cancel(texts)
            self._loop.wake()
        rows = np.zeros((len(inputs), self.embedding_length), np.float32)
        for row, vector in zip(rows, vectors, strict=True):
            if isinstance(vector, BaseException):
                raise vector
            row[:] = vector
        return rows

    async def _prepare_embedding(self) -> EmbeddingLane:
        """A chat model's embedding program is compiled by the first who wants a vector."""
        async with self._embedding_lock:
            parts = self._parts
            if self._embedding is None and parts is not None:
                rows = self._settings.prefill_rows

                def compile_program() -> _core.Program:
                    graph = parts.graph()
                    hidden = parts.architecture.hidden(graph)
                    return graph.compile(hidden, rows, rows, self._settings.kv_type)

                program = await asyncio.to_thread(compile_program)
                if self._parts is not None:
                    pooling = "last" if parts.architecture.pooling == "last" else "mean"
                    self._embedding = self._embedding_lane(program, self._plan(program, 1), rows, pooling)
            if self._embedding is None:
                raise EngineError("the model was unloaded")
            return self._embedding

    def _embedding_lane(
        self, program: _core.Program, pages: list[int], rows: int, pooling: Any
    ) -> EmbeddingLane:
        cache, blocks = self._pool(program, pages)
        lane = EmbeddingLane(program, cache, blocks, rows, program.max_outputs, _core.Sequence, pooling)
        self._loop.add(lane)
        return lane

    # Memory

    async def close(self, error: BaseException) -> None:
        """Fail the requests, wait for the steps in flight, let go of the memory."""
        self._parts = None
        for lane in (self._generation, self._embedding):
            if lane is not None:
                await self._loop.remove(lane, error)
        self._generation = None
        self._embedding = None
        self._pools.clear()

    def _plan(self, program: _core.Program, sequences: int) -> list[int]:
        settings = self._settings
        return plan_pages(
            program.groups,
            settings.kv_memory,
            self.context_length,
            settings.prefill_rows,
            sequences,
            _core.PAGE_TOKENS,
        )

    def _pool(
        self, program: _core.Program, pages: list[int], reuse: bool = False
    ) -> tuple[_core.KVCache, BlockManager]:
        cache = _core.KVCache(program, pages)
        windows = [group.window for group in program.groups]
        blocks = BlockManager(windows, pages, _core.PAGE_TOKENS, reuse)
        self._pools.append((program, blocks))
        return cache, blocks

    def _kv_bytes(self, touched: bool) -> int:
        return sum(
            count * group.page_bytes
            for program, blocks in self._pools
            for count, group in zip(blocks.touched if touched else blocks.total, program.groups, strict=True)
        )

    def _check_tokens(self, tokens: list[int]) -> None:
        if not tokens:
            raise RequestError("the input has no tokens")
        if min(tokens) < 0 or max(tokens) >= self.vocabulary:
            raise RequestError(f"a token is not in the vocabulary of {self.vocabulary}")
