"""The walk of a request, for every dialect: find the model, write its prompt, wait until it is resident,
generate."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ollamapy.prompt.errors import TemplateRenderError
from ollamapy.scheduler.residency import Residency
from ollamapy.server.errors import OverloadedError, TooLargeError
from ollamapy.server.models import ServedModel
from ollamapy.server.options import Options
from ollamapy.server.settings import Settings
from ollamapy.server.trace import note_model, note_usage
from ollamapy.store.errors import StoreError
from ollamapy.store.registry.download import Downloads
from ollamapy.store.registry.http import Patience
from ollamapy.store.registry.key import RegistryKey
from ollamapy.store.registry.pull import Transfers
from ollamapy.store.store import Store
from ollamapy.types import Constraint, ContextLengthError, Delta, GenerationRequest, Usage

if TYPE_CHECKING:
    from ollamapy.engine.protocol import Engine, LoadedModel

T = TypeVar("T")

_WRITERS = 4  # long writes to the store at a time; more of them wait
_LARGE_TEXT = 16 << 10  # characters from which tokenizing leaves the event loop
_HUGE_TEXT = (
    4 << 20
)  # characters from which texts are tokenized one after the other: each takes a multiple of its size
_LONGEST_TEXT = 64 << 20  # characters of a prompt; no context is as long


class ShuttingDownError(OverloadedError):
    """The server ends; what was still running ends with it."""


@dataclass
class Timing:
    """When a request came and how long it waited for its model, in nanoseconds."""

    started: int = field(default_factory=time.monotonic_ns)
    load: int = 0

    @property
    def total(self) -> int:
        return time.monotonic_ns() - self.started


@dataclass(frozen=True)
class Limits:
    """How a generation may be cut and what it reports besides text."""

    truncate: bool = True
    shift: bool = True
    logprobs: int = -1


class Generation:
    """A request that runs: its deltas, and what the dialect needs to know besides them."""

    def __init__(self, model: LoadedModel, prompt: list[int], deltas: AsyncGenerator[Delta, None]) -> None:
        self.model = model
        self.prompt = prompt
        self.deltas = deltas


class Service:
    """The store, the engine and the models on it. Belongs to the event loop."""

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        self.settings = settings
        self.store = store
        self.engine = engine
        self.residency = Residency(
            engine, settings.keep_alive, settings.max_loaded_models, settings.load_timeout
        )
        self.transfers = Transfers(
            store,
            Downloads(store.blobs),
            lambda: RegistryKey.load(settings.key_folder),
            Patience(),
            settings.prune,
        )
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="store")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._closing = False
        loop = asyncio.get_running_loop()

        def changed() -> None:  # in the thread that wrote
            loop.call_soon_threadsafe(self._store_changed)

        store.changed = changed

    def _store_changed(self) -> None:
        task = asyncio.ensure_future(self.let_go_of_unnamed())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def let_go_of_unnamed(self) -> None:
        """Unload what nobody can ask for any more, because its name was deleted or means another model now; one that
        is in use goes with its last user."""
        if not self.residency.keys():
            return
        try:
            named = {stored.weights for stored in await asyncio.to_thread(self.store.list)}
        except StoreError:  # the folder cannot be read: there is no telling
            return
        for key in self.residency.keys() - named:
            await self.residency.release(key)

    async def close(self) -> None:
        """Finish what is being written to the store, then let the models go."""
        await asyncio.to_thread(self._writers.shutdown)
        self.store.changed = lambda: None
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.residency.close()
        await self.engine.close()

    def write(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Run a long write to the store in a thread of its own, where it keeps nobody else from working."""
        return asyncio.get_running_loop().run_in_executor(self._writers, function, *arguments)

    @property
    def open_requests(self) -> int:
        """How many wait for a model or for the device, or are answered."""
        return len(self._tasks)

    def shut_down(self) -> None:
        """End what is running: each request answers with ShuttingDownError."""
        self._closing = True
        for task in self._tasks:
            task.cancel()

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        """Holds a place among the running and waiting requests."""
        task = asyncio.current_task()
        assert task is not None
        if self._closing:
            raise ShuttingDownError("the server is shutting down")
        if self.open_requests >= self.settings.max_queue + self.settings.parallel:
            raise OverloadedError("server busy, please try again.  maximum pending requests exceeded")
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self._closing:
                raise ShuttingDownError("the server is shutting down") from None
            raise
        finally:
            self._tasks.discard(task)

    @contextlib.asynccontextmanager
    async def resident(
        self, model: ServedModel, keep_alive: float | None, options: Options, timing: Timing
    ) -> AsyncIterator[LoadedModel]:
        """The model in memory while the context is open; timing learns how long that took."""
        window = options.context(self.settings.context_length, model.facts.context_length or 1 << 31)
        async with self._counted():
            before = time.monotonic_ns()
            trace = note_model(model.stored.name.short)
            use = self.residency.use(model.wanted, keep_alive, window)
            async with contextlib.AsyncExitStack() as stack:
                try:
                    loaded = await stack.enter_async_context(use)
                finally:
                    timing.load = time.monotonic_ns() - before
                    if trace is not None:
                        trace.load = timing.load
                yield loaded

    def window(self, model: LoadedModel, options: Options) -> int:
        return options.context(self.settings.context_length, model.context_length)

    @contextlib.asynccontextmanager
    async def generation(
        self,
        model: LoadedModel,
        prompt: list[int],
        options: Options,
        limits: Limits,
        visible: frozenset[int] = frozenset(),
        client: str = "",
        constraint: Constraint | None = None,
        branch: int = 0,
    ) -> AsyncIterator[Generation]:
        """Start a generation; leaving the context ends it. Raises what LoadedModel.generate() raises."""
        num_ctx = self.window(model, options)
        if len(prompt) > num_ctx and not limits.shift:
            raise ContextLengthError(
                "the prompt is longer than the context length currently available to the model; shorten the "
                "prompt, adjust the context length in settings, or use a model with a longer context length"
            )
        usage = Usage()
        note_usage(usage)
        deltas = model.generate(
            GenerationRequest(
                prompt=prompt,
                sampling=options.sampling,
                num_ctx=num_ctx,
                num_predict=options.num_predict,
                num_keep=options.num_keep,
                stop=options.stop,
                shift=limits.shift,
                truncate=limits.truncate,
                logprobs=limits.logprobs,
                visible=visible,
                constraint=constraint,
                branch=branch,
                client=client,
                usage=usage,
            )
        )
        try:
            yield Generation(model, prompt, deltas)
        finally:
            await deltas.aclose()


_one_by_one = ThreadPoolExecutor(1, thread_name_prefix="tokenize")


def without_bos(model: LoadedModel, text: str, leading: str = "") -> str:
    """A prompt without the BOS that it begins with, if the tokenizer adds one: the renderer's, leading, or its own."""
    tokenizer = model.tokenizer
    if not tokenizer.add_bos or tokenizer.bos is None:
        return text
    own = tokenizer.token_text(tokenizer.bos)
    return text.removeprefix(leading if leading and text.startswith(leading) else own)


async def tokenize(model: LoadedModel, text: str, special: bool = True, leading: str = "") -> list[int]:
    """Token ids of a prompt, off the event loop when it is long. A BOS that the text begins with is the one that the
    tokenizer adds, not a second; leading: the one of the renderer. Raises TooLargeError."""
    tokenizer = model.tokenizer
    if special:
        text = without_bos(model, text, leading)
    if len(text) < _LARGE_TEXT:
        return tokenizer.encode(text, special, True)
    if len(text) > _LONGEST_TEXT:
        raise TooLargeError(f"a prompt of {len(text)} characters, at most {_LONGEST_TEXT} are read")
    pool = _one_by_one if len(text) >= _HUGE_TEXT else None
    return await asyncio.get_running_loop().run_in_executor(pool, tokenizer.encode, text, special, True)


@dataclass(slots=True)
class Fitted:
    """A prompt that fits the context as far as cutting can make it."""

    text: str  # as it is shown: a BOS in it, which the model sees once, is in it wherever it was written
    tokens: list[int]
    start: int  # the first message of the conversation that is in it, system messages apart


async def fit_messages(
    model: LoadedModel,
    messages: list[dict[str, Any]],
    render: Callable[[list[dict[str, Any]]], str],
    num_ctx: int | None,
    earlier: str = "",
    leading: str = "",
) -> Fitted:
    """The prompt of a conversation without its oldest messages while it is too long, behind an earlier text.

    System messages and the last message always stay. leading: the BOS that the renderer writes. num_ctx None forbids
    cutting. Raises what render raises, unless that is because of messages that need not be cut.
    """
    systems = [i for i, message in enumerate(messages) if message.get("role") == "system"]

    async def starting_at(start: int) -> Fitted:
        turns = [messages[i] for i in systems if i < start] + messages[start:]
        text = await asyncio.to_thread(render, turns)
        seen = earlier + without_bos(model, text, leading) if earlier else text
        return Fitted(earlier + text, await tokenize(model, seen, leading=leading), start)

    whole = await starting_at(0)
    if num_ctx is None or len(whole.tokens) <= num_ctx:
        return whole
    low, high = 1, len(messages) - 1  # the first start that fits lies in between; the last one has to do
    best: Fitted | None = None
    refusal: TemplateRenderError | None = None
    while low <= high:
        middle = (low + high) // 2
        try:
            found = await starting_at(middle)
        except TemplateRenderError as error:  # it misses a message that lies before
            refusal, high = error, middle - 1
            continue
        if len(found.tokens) <= num_ctx:
            best, high = found, middle - 1
        else:
            low = middle + 1
    if best is None and refusal is not None:
        raise refusal
    return best or await starting_at(max(len(messages) - 1, 0))
