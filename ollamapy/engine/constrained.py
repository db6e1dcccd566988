"""Constrained decoding: which tokens a grammar lets follow.

The grammars are llguidance's: JSON Schema, regular expressions and Lark, compiled to one notation by
ollamapy.engine.constrained_grammar. The token trie of a vocabulary and a grammar take long and are made in threads
without the GIL; so are masks, as long as the last one was slow.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ollamapy._core import GrammarState, Tokenizer
from ollamapy.engine.constrained_grammar import is_json
from ollamapy.engine.constrained_library import GrammarError, Matcher, TokenTrie, Words
from ollamapy.engine.constrained_numbers import NumberLimit, digit_tokens
from ollamapy.engine.constrained_thought import ThoughtGate, ThoughtTokens
from ollamapy.engine.ports import CoreSequence
from ollamapy.types import Constraint

_SLOW = 1e-3  # seconds that a mask may take on the event loop; a request beyond it computes in a thread
_COMPILE_SECONDS = 20.0  # until a grammar is given up, the vocabulary's trie not counted
_CACHED = 64  # compiled grammars of a model
_THREADS = 2

log = logging.getLogger(__name__)
_threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="grammar")


class Grammars:
    """The grammars of one model's vocabulary. Belongs to the event loop."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._trie: asyncio.Future[TokenTrie] | None = None
        self._tags: dict[tuple[str, str], ThoughtTokens] = {}
        self._digits: Words | None = None
        self._compiled: dict[str, Matcher] = {}  # grammar to its first state, oldest use first

    async def masks(self, constraint: Constraint) -> TokenMasks:
        """The masks of one answer, the first one ready. Raises GrammarError."""
        if not self._tokenizer.eog:
            raise GrammarError("the model has no end token, so that no grammar could ever end")
        loop = asyncio.get_running_loop()
        if self._trie is None:
            self._trie = loop.run_in_executor(_threads, _trie, self._tokenizer)
        trie = await asyncio.shield(self._trie)
        matcher = self._compiled.pop(constraint.grammar, None)
        if matcher is None:
            work = loop.run_in_executor(_threads, trie.matcher, constraint.grammar)
            try:
                matcher = await asyncio.wait_for(asyncio.shield(work), _COMPILE_SECONDS)
            except asyncio.TimeoutError:
                raise GrammarError("the format is too complex: compiling it takes too long") from None
        self._compiled[constraint.grammar] = matcher
        while len(self._compiled) > _CACHED:
            del self._compiled[next(iter(self._compiled))]
        masks = TokenMasks(matcher.clone(), trie)
        if is_json(constraint.grammar):
            if self._digits is None:
                self._digits = await loop.run_in_executor(_threads, digit_tokens, trie.pieces)
            masks.numbers = NumberLimit(self._digits)
        if constraint.thought is not None:
            tags = self._tags.get(constraint.thought)
            if tags is None:
                tags = await loop.run_in_executor(_threads, ThoughtTokens, trie.pieces, *constraint.thought)
                self._tags[constraint.thought] = tags
            masks.gate = ThoughtGate(tags, constraint.thought_open, masks.accepts)
        await loop.run_in_executor(_threads, masks.fill)
        return masks


def _trie(tokenizer: Tokenizer) -> TokenTrie:
    started = time.monotonic()
    trie = TokenTrie(tokenizer)
    log.debug("token trie built in %.2f s", time.monotonic() - started)
    return trie


class TokenMasks:
    """What may follow in one answer, token after token.

    A mask of the whole vocabulary is dear, and most tokens that a model draws fit the grammar anyway: so a token is
    drawn freely, and only where the grammar refuses it is a mask computed to draw it again from. Where more than the
    grammar counts (a thought before the answer, numbers that have to end), the mask comes first.
    """

    def __init__(self, matcher: Matcher, trie: TokenTrie) -> None:
        self._matcher = matcher
        self._trie = trie
        self.gate: ThoughtGate | None = None  # of a model that may think before it answers
        self.numbers: NumberLimit | None = None  # of an answer in JSON
        self.mask: Words = np.zeros(trie.words, np.uint32)
        self._last_word = np.uint32(0xFFFFFFFF >> (-trie.size % 32))  # the bits that are tokens
        self.state: GrammarState = matcher.state()
        self.ready = False
        self._filled = False  # the mask is that of the next token
        self._slow = False  # the last one was

    def advance(
        self,
        token: int,
        seconds: float,
        deliver: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Take the token that was drawn and deliver what may follow: at once, or on the event loop once a thread has
        it. seconds: that the draw computed a mask."""
        self.ready = False
        if seconds > _SLOW:
            self._slow = True
        if not self._slow:
            try:
                self._step(token)
            except Exception as error:  # one request's, whatever it is
                failed(error)
            else:
                deliver()
            return
        loop = asyncio.get_running_loop()

        def done(work: asyncio.Future[None]) -> None:
            error = work.exception()
            if error is None:
                deliver()
            else:
                failed(error if isinstance(error, Exception) else RuntimeError(str(error)))

        loop.run_in_executor(_threads, self._step, token).add_done_callback(done)

    def put(self, sequence: CoreSequence, position: int) -> None:
        """Tell the core what may stand at the position that comes next."""
        if self._more_than_grammar:
            sequence.set_mask(position, self.mask)
        else:
            sequence.ask_grammar(position, self.mask if self._filled else None)

    def accepts(self, text: bytes) -> bool:
        """Whether the grammar may go on with text."""
        return self._matcher.allows(self._trie.tokenize(text))

    def error(self) -> GrammarError | None:
        """What went wrong in the grammar while the core used it."""
        text = self._matcher.error()
        return self._error(text) if text else None

    @property
    def _more_than_grammar(self) -> bool:
        return (self.gate is not None and not self.gate.passed) or (
            self.numbers is not None and self.numbers.reached
        )

    def _step(self, token: int) -> None:
        self._accept(token)
        if self._slow or self._more_than_grammar:
            self.fill()
        else:
            self._filled = False
            self.ready = True

    def _accept(self, token: int) -> None:
        gate = self.gate
        if gate is not None and not gate.passed:
            rest = gate.push(token)
            if rest is None:
                return
            if rest and not self._matcher.consume(self._trie.tokenize(rest)):
                self._raise("the thought ended in the middle of a token")
        else:
            rest = self._trie.pieces[token]
            if not self._matcher.consume([token]):
                self._raise("a token that the grammar does not allow")
        if self.numbers is not None:
            self.numbers.push(rest)

    def fill(self) -> None:
        """Compute the mask of the state. Raises GrammarError when the grammar takes more work than it may."""
        started = time.monotonic()
        gate = self.gate
        if (gate is None or gate.needs_grammar) and not self._matcher.fill(self.mask):
            self._raise("the grammar fails")
        if self.numbers is not None:
            self.numbers.apply(self.mask)
        if gate is not None and not gate.passed:
            gate.open(self.mask, self._trie.end_tokens)
        self.mask[-1] &= self._last_word  # a model may have rows for more
        self._slow = time.monotonic() - started > _SLOW
        self._filled = self.ready = True

    def _raise(self, fallback: str) -> None:
        raise self._error(self._matcher.error() or fallback)

    def _error(self, text: str) -> GrammarError:
        return GrammarError(f"the format is too complex or leads nowhere: {text}")
