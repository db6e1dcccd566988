"""Constrained decoding: which tokens a grammar lets follow, as masks for the sampler.

The grammars are llguidance's: JSON Schema, regular expressions and Lark, compiled to one notation by
ollamapy.engine.constrained_grammar. Everything that takes long (the token trie of a vocabulary, a grammar, a mask that
is not ready in no time) runs in threads without the GIL.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ollamapy._core import Tokenizer
from ollamapy.engine.constrained_grammar import LIMITS
from ollamapy.engine.constrained_thought import ThoughtGate, ThoughtTokens
from ollamapy.types import Constraint, RequestError

_SLOW = 1e-3  # seconds that a mask may take on the event loop; a request beyond it computes in a thread
_COMPILE_SECONDS = 20.0  # until a grammar is given up, the vocabulary's trie not counted
_CACHED = 64  # compiled grammars of a model
_THREADS = 2
_LONGEST_TOKEN = 250  # bytes

Words = NDArray[np.uint32]  # bit i % 32 of word i / 32: token i may follow

log = logging.getLogger(__name__)
_threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="grammar")


class GrammarError(RequestError):
    """A grammar that cannot be compiled, is satisfied by nothing, or takes more work than it may."""


class _Vocabulary:
    """A tokenizer as llguidance's LLTokenizer wants it."""

    is_tokenizer_wrapper = True
    _accepts_bytes = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._gtokenizer = tokenizer
        self.eos_token_id = min(tokenizer.eog)
        self.bos_token_id = tokenizer.bos
        pieces = (tokenizer.piece(i, True) for i in range(tokenizer.vocab_size))
        # A trie of deeper branches than this cannot be built; no text needs such a token.
        self.tokens = [piece if len(piece) <= _LONGEST_TOKEN else b"" for piece in pieces]
        self.special_token_ids = [i for i in range(tokenizer.vocab_size) if tokenizer.is_control(i)]

    def __call__(self, text: bytes) -> list[int]:
        return self._gtokenizer.encode(text, False, False)


class Grammars:
    """The grammars of one model's vocabulary. Belongs to the event loop."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._trie: asyncio.Future[tuple[Any, list[bytes]]] | None = None
        self._tags: dict[tuple[str, str], ThoughtTokens] = {}
        self._compiled: dict[str, Any] = {}  # grammar to LLMatcher in its first state, oldest use first

    async def masks(self, constraint: Constraint) -> TokenMasks:
        """The masks of one answer, the first one ready. Raises GrammarError."""
        if not self._tokenizer.eog:
            raise GrammarError("the model has no end token, so that no grammar could ever end")
        loop = asyncio.get_running_loop()
        if self._trie is None:
            self._trie = loop.run_in_executor(_threads, self._build)
        trie, pieces = await asyncio.shield(self._trie)
        matcher = self._compiled.pop(constraint.grammar, None)
        if matcher is None:
            work = loop.run_in_executor(_threads, _compile, trie, constraint.grammar)
            try:
                matcher = await asyncio.wait_for(asyncio.shield(work), _COMPILE_SECONDS)
            except asyncio.TimeoutError:
                raise GrammarError("the format is too complex: compiling it takes too long") from None
        self._compiled[constraint.grammar] = matcher
        while len(self._compiled) > _CACHED:
            del self._compiled[next(iter(self._compiled))]
        masks = TokenMasks(matcher.deep_copy(), trie, self._tokenizer)
        if constraint.thought is not None:
            tags = self._tags.get(constraint.thought)
            if tags is None:
                tags = await loop.run_in_executor(_threads, ThoughtTokens, pieces, *constraint.thought)
                self._tags[constraint.thought] = tags
            masks.gate = ThoughtGate(tags, constraint.thought_open, masks.accepts)
        await loop.run_in_executor(_threads, masks.fill)
        return masks

    def _build(self) -> tuple[Any, list[bytes]]:
        with _refusing():
            return self._trie_of_vocabulary()

    def _trie_of_vocabulary(self) -> tuple[Any, list[bytes]]:
        # Not imported before somebody needs it: it is the largest of our libraries.
        from llguidance import LLTokenizer

        started = time.monotonic()
        vocabulary: Any = _Vocabulary(self._tokenizer)
        trie = LLTokenizer(
            vocabulary,
            n_vocab=self._tokenizer.vocab_size,
            eos_token=sorted(self._tokenizer.eog),
            slices=LLTokenizer.json_slices(),
        )
        log.debug("token trie built in %.2f s", time.monotonic() - started)
        return trie, vocabulary.tokens


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """A failed assertion of llguidance, which is no Exception, as a refusal of the request."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise GrammarError(
            f"the model's vocabulary or the format is more than can be constrained: {error}"
        ) from None


def _compile(trie: Any, grammar: str) -> Any:
    from llguidance import LLMatcher, LLParserLimits

    with _refusing():
        matcher = LLMatcher(trie, grammar, log_level=0, limits=LLParserLimits(**LIMITS))
    if matcher.is_error():
        raise GrammarError(f"invalid format: {_first_line(matcher.get_error())}")
    return matcher


def _first_line(text: str) -> str:
    return " ".join(text.split())[:300]


class TokenMasks:
    """The masks of one answer, token after token."""

    def __init__(self, matcher: Any, trie: Any, tokenizer: Tokenizer) -> None:
        self._matcher = matcher
        self._trie = trie
        self.gate: ThoughtGate | None = None  # of a model that may think before it answers
        self._end_tokens = sorted(tokenizer.eog)
        self.mask: Words = np.zeros((tokenizer.vocab_size + 31) // 32, np.uint32)
        self.ready = False
        self._slow = False

    def advance(
        self, token: int, deliver: Callable[[Words], None], failed: Callable[[Exception], None]
    ) -> None:
        """Take the token that was drawn and deliver the mask of the next: at once, or on the event loop once
        a thread has it."""
        self.ready = False
        if not self._slow:
            try:
                self._step(token)
            except GrammarError as error:
                failed(error)
            else:
                deliver(self.mask)
            return
        loop = asyncio.get_running_loop()

        def done(work: asyncio.Future[None]) -> None:
            error = work.exception()
            if error is None:
                deliver(self.mask)
            else:
                failed(error if isinstance(error, Exception) else RuntimeError(str(error)))

        loop.run_in_executor(_threads, self._step, token).add_done_callback(done)

    def accepts(self, text: bytes) -> bool:
        """Whether the grammar may go on with text."""
        tokens = self._trie.tokenize_bytes(text)
        return bool(self._matcher.validate_tokens(tokens) == len(tokens))

    def _step(self, token: int) -> None:
        started = time.monotonic()
        with _refusing():
            self._accept(token)
            self.fill()
        self._slow = time.monotonic() - started > _SLOW

    def _accept(self, token: int) -> None:
        gate = self.gate
        if gate is not None and not gate.passed:
            rest = gate.push(token)
            if rest is None:
                return
            if rest:
                tokens = self._trie.tokenize_bytes(rest)
                if not self._matcher.consume_tokens(tokens):
                    self._raise("the thought ended in the middle of a token")
            return
        if not self._matcher.consume_token(token):
            self._raise("a token that the grammar does not allow")

    def fill(self) -> None:
        """Compute the mask of the state. Raises GrammarError when the grammar takes more work than it may."""
        gate = self.gate
        if gate is None or gate.needs_grammar:
            self._matcher.unsafe_compute_mask_ptr(self.mask.ctypes.data, self.mask.nbytes)
            if self._matcher.is_error():
                self._raise("the grammar fails")
        if gate is not None and not gate.passed:
            gate.open(self.mask, self._end_tokens)
        self.ready = True

    def _raise(self, fallback: str) -> None:
        text = _first_line(self._matcher.get_error()) or fallback
        raise GrammarError(f"the format is too complex or leads nowhere: {text}")
