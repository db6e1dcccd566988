"""What the rest of the house sees of the engine: load a model, generate, embed, let go.

Everything here is called on the event loop. The device works in a thread of the core, so nothing below blocks
the loop for longer than it takes to plan a step.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ollamapy._core import GGUFFile, Tokenizer
from ollamapy.scheduler.reading import Reading
from ollamapy.types import Delta, GenerationRequest


class LoadedModel(Protocol):
    """A model whose weights are resident. It lives until Engine.unload()."""

    @property
    def file(self) -> GGUFFile: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def architecture(self) -> str:
        """general.architecture of the file: "llama"."""

    @property
    def context_length(self) -> int:
        """Most tokens of a sequence, from the file; a request's num_ctx is capped by it."""

    @property
    def embedding_length(self) -> int:
        """Width of an embedding."""

    @property
    def can_generate(self) -> bool: ...
    @property
    def can_embed(self) -> bool: ...
    @property
    def nbytes(self) -> int:
        """Bytes that the model holds now: weights, KV pages in use and scratch."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Continue a prompt. The last delta carries done_reason and usage.

        Closing the generator (aclose) or cancelling the task that iterates it takes the request out of the
        running batch at the next step. Raises RequestError for a request that cannot be served (an empty
        prompt, a token or an option out of range), ContextLengthError for a prompt over num_ctx with truncate
        off, EngineError when the device fails or the model is unloaded under the request.
        """

    async def embed(self, inputs: list[list[int]], client: str = "") -> NDArray[np.float32]:
        """One row per input, L2-normalized: float32 [len(inputs), embedding_length]. client: who asks; clients take
        turns.

        Inputs are token ids, special tokens included. Raises RequestError for an empty input or a token out
        of range, ContextLengthError for an input over context_length, EngineError when the device fails.
        """


class PreparedModel(Protocol):
    """A file that can be loaded."""

    def needed_bytes(self, num_ctx: int) -> int:
        """Memory that load() takes, with the KV pages of one sequence of num_ctx tokens; 0: of a short one."""


class Engine(Protocol):
    """One device and the models on it."""

    async def start(self) -> None:
        """Start the device. Call once, on the event loop that will be used."""

    async def close(self) -> None:
        """Fail what is still running, unload all models and stop the device."""

    async def prepare(self, path: str, adapter: str = "", reading: Reading | None = None) -> PreparedModel:
        """Check a GGUF file, off the event loop, and find out what it needs. adapter, if not empty, is the GGUF of a
        LoRA that is applied. reading: what reads the file, if the caller wants to see whether it gets on.

        Raises UnsupportedModelError, GGUFError for a malformed file, OSError when it cannot be read.
        """

    async def load(self, prepared: Any, num_ctx: int = 0, reading: Reading | None = None) -> LoadedModel:
        """Read the weights of what prepare() gave and make it ready to run; the work happens off the event loop.
        num_ctx: the tokens of a sequence for which there is to be room, if that is possible at all. reading: see
        prepare(). What it needs is not free for others until the reading has ended, and more than one may go on at a
        time.

        Raises GGUFError, OSError when the file cannot be read, MemoryError when it does not fit.
        """

    async def unload(self, model: LoadedModel) -> None:
        """End the model's requests with EngineError, wait for its steps in flight and release its memory."""

    # Memory, in bytes

    def free_bytes(self) -> int:
        """What is there, measured now, less what the loaded models were promised for KV pages."""

    def held_bytes(self, model: LoadedModel) -> int:
        """What unload() gives back, the promised included."""

    def spare_bytes(self, model: LoadedModel) -> int:
        """How much of that shrink() gives back: KV pages that are only promised, or kept for later requests."""

    async def shrink(self, model: LoadedModel, nbytes: int) -> None:
        """Take so much of its spare bytes away; what it computed for the texts that were used last goes last."""

    def missing_bytes(self, model: LoadedModel, num_ctx: int) -> int:
        """What its KV pages lack for a sequence of num_ctx tokens."""

    def widen(self, model: LoadedModel, num_ctx: int) -> None:
        """Promise it the missing bytes, if they are free."""

    def share_out(self) -> None:
        """Promise the loaded models, in equal parts, a share of what is free now for their KV pages."""
