"""A model whose weights are resident: its programs, its pages, its requests."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ollamapy import _core
from ollamapy.engine.constrained import Grammars
from ollamapy.engine.embedding import EmbeddingLane, Text
from ollamapy.engine.generation import Generation, Limits, shortened
from ollamapy.engine.lane import GenerationLane
from ollamapy.engine.loop import StepLoop
from ollamapy.engine.memory import KV_SHARE, LEAST_TOKENS, kv_bytes, plan_pages
from ollamapy.engine.parts import Parts, bert_pages
from ollamapy.engine.pool import KVPool
from ollamapy.engine.ports import CoreSequence
from ollamapy.engine.stream import TextStream
from ollamapy.models.bert import Bert
from ollamapy.types import ContextLengthError, Delta, EngineError, GenerationRequest, RequestError

ANSWER_LIMIT = 10  # times num_ctx: no answer is longer

_arrivals = itertools.count()


@dataclass(frozen=True, slots=True)
class Load:
    """Requests, and KV pages by layer group, at a moment. Behind the groups of the generating program stand those of
    the embedding one."""

    running: int = 0
    waiting: int = 0
    pages: tuple[int, ...] = ()
    free: tuple[int, ...] = ()
    idle: tuple[int, ...] = ()


class Model:
    """See LoadedModel in ollamapy.engine.protocol."""

    def __init__(
        self, parts: Parts, loop: StepLoop, room: int, free: Callable[[], int], num_ctx: int = 0
    ) -> None:
        """parts: read. room: the most bytes of KV pages that there may ever be; free(): how many there may be now.
        num_ctx: tokens of a sequence for which there are to be pages if that is possible at all.

        Raises MemoryError when there is no room for KV pages at all."""
        self.file = parts.file
        self.tokenizer = parts.tokenizer
        self.architecture = parts.architecture.name
        self.context_length = parts.architecture.context_length
        self.embedding_length = parts.architecture.width
        self.vocabulary = parts.file.tensor("token_embd.weight").shape[1]
        self.can_generate = not parts.architecture.bidirectional
        self.can_embed = parts.architecture.bidirectional or parts.architecture.pooling != "cls"
        self._parts: Parts | None = parts  # None when it is unloaded, or about to be
        self._fixed_bytes = parts.fixed_bytes
        self._rows = parts.settings.prefill_rows
        self._loop = loop
        self._free = free
        self._num_ctx = num_ctx  # of the latest request
        self._grammars = Grammars(parts.tokenizer)
        self._generation: GenerationLane | None = None
        self._embedding: EmbeddingLane | None = None
        self._embedding_lock = asyncio.Lock()
        self._pool: KVPool | None = None  # of the generating program
        self._embedding_pool: KVPool | None = None
        if isinstance(parts.architecture, Bert):
            pool = KVPool(parts.program, bert_pages(parts.program))
            self._embedding = self._embedding_lane(parts.program, pool, parts.program.max_rows, None)
        else:
            self._pool = self._generation_pool(parts, room, num_ctx)
            settings = parts.settings
            self._generation = GenerationLane(
                parts.program,
                self._pool.cache,
                self._pool.blocks,
                settings.prefill_rows,
                settings.max_sequences,
            )
            loop.add(self._generation)

    def _generation_pool(self, parts: Parts, room: int, num_ctx: int) -> KVPool:
        """The pool, with pages for one sequence."""
        free = self._free()
        least = parts.sequence_pages(num_ctx if parts.kv_bytes(num_ctx) <= free else 0)
        groups = parts.program.groups
        if kv_bytes(groups, least) > free:
            raise MemoryError(f"{free >> 20} MiB are not enough for the KV cache")
        most = [parts.settings.max_sequences * n for n in parts.sequence_pages(self.context_length)]
        pool = KVPool(parts.program, plan_pages(groups, room, least, most), parts.settings.prefix_cache)
        pool.blocks.resize(least)
        return pool

    def load(self) -> Load:
        """How its queue and its KV pages stand."""
        lanes = [lane for lane in (self._generation, self._embedding) if lane is not None]
        trees = [lane.blocks.tree for lane in lanes]
        return Load(
            sum(lane.running for lane in lanes),
            sum(lane.waiting for lane in lanes),
            tuple(itertools.chain.from_iterable(tree.total for tree in trees)),
            tuple(itertools.chain.from_iterable(tree.free for tree in trees)),
            tuple(itertools.chain.from_iterable(tree.idle for tree in trees)),
        )

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
        masks = None if request.constraint is None else await self._grammars.masks(request.constraint)
        lane = self._generation
        if lane is None or self._parts is None:
            raise EngineError("the model was unloaded")

        def new_sequence(tokens: list[int], branch: int) -> CoreSequence:
            grammar = None if masks is None else masks.state
            return _core.Sequence(tokens, self._sampling(request, limits, seed, branch), grammar=grammar)

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
            if self.missing_bytes(limits.num_ctx) > 0:  # another model took the pages that it was promised
                self.widen(limits.num_ctx)
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
        self._num_ctx = num_ctx = min(max(request.num_ctx, 4), self.capacity)
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

    async def embed(self, inputs: list[list[int]], client: str = "") -> NDArray[np.float32]:
        if not self.can_embed:
            raise RequestError(f"architecture '{self.architecture}' does not embed")
        lane = await self._prepare_embedding()
        most = min(self.context_length, lane.blocks.capacity(self._rows))
        for tokens in inputs:
            self._check_tokens(tokens)
            if len(tokens) > most:
                raise ContextLengthError(f"an input has {len(tokens)} tokens, the context length is {most}")
        texts: list[Text] = [lane.add(tokens, client) for tokens in inputs]
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
                rows = parts.settings.prefill_rows

                def compile_program() -> _core.Program:
                    graph = parts.graph()
                    hidden = parts.architecture.hidden(graph)
                    return graph.compile(hidden, rows, rows, parts.settings.kv_type)

                program = await asyncio.to_thread(compile_program)
                if self._parts is not None:
                    pooling = "last" if parts.architecture.pooling == "last" else "mean"
                    least, most = parts.sequence_pages(0), parts.sequence_pages(self.context_length)
                    room = int(self._free() * KV_SHARE)
                    pool = KVPool(program, plan_pages(program.groups, room, least, most))
                    self._embedding = self._embedding_lane(program, pool, rows, pooling)
            if self._embedding is None:
                raise EngineError("the model was unloaded")
            return self._embedding

    def _embedding_lane(self, program: _core.Program, pool: KVPool, rows: int, pooling: Any) -> EmbeddingLane:
        self._embedding_pool = pool
        lane = EmbeddingLane(
            program, pool.cache, pool.blocks, rows, program.max_outputs, _core.Sequence, pooling
        )
        self._loop.add(lane)
        return lane

    # Memory

    @property
    def nbytes(self) -> int:
        """Bytes that it takes now: weights, KV pages and scratch."""
        pools = self._pools
        return self._fixed_bytes + sum(pool.nbytes for pool in pools) if pools else 0

    @property
    def kv_bytes(self) -> int:
        """Bytes that the KV pages of its answers take now."""
        return 0 if self._pool is None else self._pool.nbytes

    @property
    def kv_promised(self) -> int:
        """Bytes of KV pages that its answers may take yet."""
        return 0 if self._pool is None else self._pool.limit - self._pool.nbytes

    @property
    def promised_bytes(self) -> int:
        """Bytes of KV pages that it may take yet."""
        return sum(pool.limit - pool.nbytes for pool in self._pools)

    @property
    def spare_bytes(self) -> int:
        """Bytes of KV pages, taken or promised, that shrink() can do without."""
        if self._pool is None:
            return 0
        idle = self._idle_embedding
        return max(0, -self._pool.bytes_beyond(self._least())) + (0 if idle is None else idle.limit)

    @property
    def _idle_embedding(self) -> KVPool | None:
        """The pages of a chat model's embedding program while nobody uses them."""
        busy = self._embedding is not None and self._embedding.running + self._embedding.waiting > 0
        return None if self._generation is None or busy else self._embedding_pool

    @property
    def capacity(self) -> int:
        """Most tokens of one sequence: the model's context, or what its KV pages hold if that is less."""
        if self._pool is None:
            return self.context_length
        return min(self.context_length, self._pool.blocks.capacity(self._rows))

    def missing_bytes(self, num_ctx: int) -> int:
        """Bytes of KV pages that it lacks for a sequence of num_ctx tokens."""
        return 0 if self._pool is None else max(0, self._pool.bytes_beyond(self._wide(num_ctx)))

    def _wide(self, num_ctx: int) -> list[int]:
        """Pages for what there is, and for a sequence of num_ctx tokens."""
        assert self._pool is not None
        blocks = self._pool.blocks
        pages = zip(
            blocks.need(self._bounded(num_ctx), self._rows), blocks.tree.room, blocks.total, strict=True
        )
        return [max(min(need, room), total) for need, room, total in pages]

    def _least(self) -> list[int]:
        """Pages that it cannot do without."""
        assert self._generation is not None
        return self._generation.least(self._bounded(self._num_ctx))

    def _bounded(self, num_ctx: int) -> int:
        return min(max(num_ctx, LEAST_TOKENS), self.context_length)

    def promise(self, nbytes: int) -> None:
        """Let it take so many bytes of KV pages beyond those that it has, or what it needs if that is more."""
        pool = self._pool
        if pool is not None:
            least = map(max, self._least(), pool.blocks.touched)
            pool.blocks.resize(pool.planned(pool.nbytes + nbytes, list(least)))

    def widen(self, num_ctx: int) -> None:
        """Let it take the KV pages of a sequence of num_ctx tokens."""
        if self._pool is not None:
            self._pool.blocks.resize(self._wide(num_ctx))

    async def shrink(self, nbytes: int) -> None:
        """Do with so many bytes less of KV pages, as far as that is possible. First goes an embedding program that
        nobody uses, then what is only promised, then what nobody uses. When memory has to be given back, its
        steps pause for that long."""
        nbytes -= await self._drop_embedding()
        if nbytes <= 0:
            return
        pool, lane = self._pool, self._generation
        if pool is None or lane is None:
            return
        budget = pool.limit - nbytes
        pages = pool.planned(budget, self._least())
        if not pool.gives_back(pages):
            pool.blocks.resize(pages)
            return
        async with self._loop.paused(lane):
            if self._pool is None:  # unloaded meanwhile
                return
            gone = pool.blocks.resize(pool.planned(budget, self._least()))
            await asyncio.to_thread(pool.give_back, gone)

    async def _drop_embedding(self) -> int:
        """Let go of an embedding program that nobody uses; who wants a vector compiles it again. Returns its bytes."""
        async with self._embedding_lock:
            pool, lane = self._idle_embedding, self._embedding
            if pool is None or lane is None:
                return 0
            limit = pool.limit
            self._embedding = self._embedding_pool = None
            await self._loop.remove(lane, EngineError("the model's embedding program was let go of"))
            return limit

    async def close(self, error: BaseException) -> None:
        """Fail the requests, wait for the steps in flight, let go of the memory."""
        self._parts = None
        for lane in (self._generation, self._embedding):
            if lane is not None:
                await self._loop.remove(lane, error)
        self._generation = self._embedding = None
        self._pool = self._embedding_pool = None

    @property
    def _pools(self) -> list[KVPool]:
        return [pool for pool in (self._pool, self._embedding_pool) if pool is not None]

    def _check_tokens(self, tokens: list[int]) -> None:
        if not tokens:
            raise RequestError("the input has no tokens")
        if min(tokens) < 0 or max(tokens) >= self.vocabulary:
            raise RequestError(f"a token is not in the vocabulary of {self.vocabulary}")
