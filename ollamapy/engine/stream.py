"""From sampled tokens to text: characters, stop sequences, log probabilities.

Nothing that could still become a stop sequence leaves before it is decided, and nothing of a stop sequence
ever does. The outcome does not depend on how the tokens cut the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ollamapy.engine.ports import StreamingDetokenizer, TokenText
from ollamapy.types import TokenLogprob


@dataclass(slots=True)
class Emission:
    """Text that may leave, with the tokens it belongs to."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    stop: str | None = None  # the stop sequence that was completed: nothing follows


class StopMatcher:
    """Watches a text for one sequence, character by character (Knuth, Morris, Pratt).

    The table grows with what has matched: a sequence as long as a book costs what the answer is long.
    """

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0  # length of the longest prefix of stop that the text ends with
        self._fallback = [0]  # of the first characters: the longest proper prefix that they end with

    def _extend(self) -> None:
        """One more entry of the table."""
        character = self.stop[len(self._fallback)]
        k = self._fallback[-1]
        while k and character != self.stop[k]:
            k = self._fallback[k - 1]
        self._fallback.append(k + (character == self.stop[k]))

    def push(self, character: str) -> bool:
        """True when the text now ends with the whole sequence."""
        while self.matched and self.stop[self.matched] != character:
            self.matched = self._fallback[self.matched - 1]
        if self.stop[self.matched] == character:
            self.matched += 1
            if len(self._fallback) < self.matched:
                self._extend()
        return self.matched == len(self.stop)


@dataclass(slots=True)
class _Held:
    token: int
    start: int  # where the token's text begins in the held text
    logprob: TokenLogprob | None


class TextStream:
    """The text side of one request.

    The stop sequence that is complete first ends the text; of those complete at the same character, the
    longest. Empty stop sequences are ignored, as they would forbid any text.
    """

    def __init__(
        self,
        tokenizer: TokenText,
        detokenizer: StreamingDetokenizer,
        stop: Sequence[str] = (),
        logprobs: int = -1,
        visible: frozenset[int] = frozenset(),
    ) -> None:
        """logprobs and visible as in GenerationRequest: below 0 no entries are made."""
        self._tokenizer = tokenizer
        self._detokenizer = detokenizer
        self._matchers = [StopMatcher(s) for s in stop if s]
        self._firsts = frozenset(s[0] for s in stop if s)
        self._want_logprobs = logprobs >= 0
        self._visible = visible
        self._text = ""
        self._held: list[_Held] = []
        self._bytes = b""  # of tokens that have not completed a character

    def push(self, token: int, logprob: float = 0.0, top: Sequence[tuple[int, float]] = ()) -> Emission:
        """Take a sampled token and return what may leave now: often nothing."""
        text = self._detokenizer.push(token)
        if token in self._visible:
            text += self._tokenizer.piece(token, True).decode("utf-8", "replace")
        entry = self._entry(token, text, logprob, top) if self._want_logprobs else None
        # What is held back of the text is the beginning of a stop sequence.
        if text and not self._held and not self._text and self._firsts.isdisjoint(text):
            return Emission(text, [token], [] if entry is None else [entry])  # as most tokens are
        self._held.append(_Held(token, len(self._text), entry))
        return self._extend(text)

    def finish(self) -> Emission:
        """The text ends here, by the end token or a limit: whatever was held back leaves."""
        last = self._extend(self._detokenizer.flush())
        if last.stop is not None:
            return last
        rest = self._leave(len(self._text), everything=True)
        return Emission(last.text + rest.text, last.tokens + rest.tokens, last.logprobs + rest.logprobs)

    def _extend(self, text: str) -> Emission:
        base = len(self._text)
        self._text += text
        if not self._matchers:
            return self._leave(len(self._text))
        for i, character in enumerate(text):
            complete = [m for m in self._matchers if m.push(character)]
            if complete:
                stop = max((m.stop for m in complete), key=len)
                emission = self._leave(base + i + 1 - len(stop))
                emission.stop = stop
                return emission
        return self._leave(len(self._text) - max(m.matched for m in self._matchers))

    def _leave(self, length: int, everything: bool = False) -> Emission:
        """Cut length characters off the held text, with the tokens that begin in them."""
        count = 0
        while count < len(self._held) and (everything or self._held[count].start < length):
            count += 1
        leaving, self._held = self._held[:count], self._held[count:]
        logprobs = [held.logprob for held in leaving if held.logprob is not None]
        emission = Emission(self._text[:length], [held.token for held in leaving], logprobs)
        self._text = self._text[length:]
        for held in self._held:
            held.start -= length
        return emission

    def _entry(
        self, token: int, text: str, logprob: float, top: Sequence[tuple[int, float]]
    ) -> TokenLogprob | None:
        """A token that only holds back bytes has no entry: the next one carries the whole character."""
        data = self._bytes + self._tokenizer.piece(token, token in self._visible)
        pending = self._detokenizer.pending
        if not text and pending:
            self._bytes = data
            return None
        self._bytes = data[len(data) - pending :]
        data = data[: len(data) - pending]
        return TokenLogprob(token, text, data, logprob, [self._alternative(t, p) for t, p in top])

    def _alternative(self, token: int, logprob: float) -> TokenLogprob:
        data = self._tokenizer.piece(token)
        return TokenLogprob(token, data.decode("utf-8", "replace"), data, logprob)
