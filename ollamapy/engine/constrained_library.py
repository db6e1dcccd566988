"""llguidance through its C interface (parser/src/ffi.rs of its source), which its Python package carries as well.

The package's own classes build the token trie of a vocabulary with the GIL held, for a second and more where it is
large, and every stream would stand still. Calls through cffi leave the GIL alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from cffi import FFI
from numpy.typing import NDArray

from ollamapy._core import TOKENIZE_FOR_GRAMMAR, GrammarState, Tokenizer
from ollamapy.engine.constrained_grammar import LIMITS
from ollamapy.types import EngineError, RequestError

Words = NDArray[np.uint32]  # bit i % 32 of word i / 32: token i may follow

_LONGEST_TOKEN = (
    250  # bytes: no trie of deeper branches than this can be built, and no text needs such a token
)
# Tokens that are taken together where a grammar allows everything that matches. JSON's strings are most of an answer: a
# string that may have k characters more takes all tokens of up to k at once, and only longer ones are looked at. Steps
# this fine make a mask of a bounded string half as dear as the library's own slices, which are 10, 30 and any number.
_LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 30)
_CHARACTER = r'[^"\\\x00-\x1F\x7F]'
_SLICES = [r"[\x20\x0A\x0D\x09]+", *(f"{_CHARACTER}{{1,{n}}}" for n in _LENGTHS), f"{_CHARACTER}+"]
_SPECIAL = b"\xff"  # before the name of a token that no text spells
_ERROR_BYTES = 1000

_INTERFACE = """
typedef struct LlgTokenizer LlgTokenizer;
typedef struct LlgMatcher LlgMatcher;
typedef struct {
    size_t struct_size;
    uint32_t vocab_size, tok_eos;
    const uint32_t *token_lens;
    const uint8_t *token_bytes;
    const char *tokenizer_json;
    bool tokenize_assumes_string;
    size_t (*tokenize_fn)(const void *user_data, const uint8_t *bytes, size_t bytes_len,
                          uint32_t *output_tokens, size_t output_tokens_len);
    bool use_approximate_greedy_tokenize_fn;
    const void *tokenize_user_data;
    const char *const *slices;
    const uint32_t *tok_eos_extra;
    uint32_t tok_eos_extra_count;
} LlgTokenizerInitV2;
typedef struct {
    const LlgTokenizer *tokenizer;
    uint32_t log_buffer_level, log_stderr_level;
    bool ff_tokens_ok, backtrack_ok;
    size_t max_items_in_row;
    uint64_t initial_lexer_fuel, step_lexer_fuel;
    size_t step_max_items, max_lexer_states, max_grammar_size;
    bool precompute_large_lexemes, verbose_errors;
    uint64_t reserve[32];  // what later versions may add
} LlgConstraintInit;
void llg_constraint_init_set_defaults(LlgConstraintInit *init, const LlgTokenizer *tokenizer);
LlgTokenizer *llg_new_tokenizer_v2(const LlgTokenizerInitV2 *init, char *error, size_t error_len);
void llg_free_tokenizer(LlgTokenizer *tokenizer);
size_t llg_tokenize_bytes(const LlgTokenizer *tokenizer, const uint8_t *bytes, size_t bytes_len,
                          uint32_t *output_tokens, size_t output_tokens_len);
LlgMatcher *llg_new_matcher(const LlgConstraintInit *init, const char *constraint_type, const char *data);
LlgMatcher *llg_clone_matcher(const LlgMatcher *matcher);
void llg_free_matcher(LlgMatcher *matcher);
const char *llg_matcher_get_error(LlgMatcher *matcher);
bool llg_matcher_is_stopped(const LlgMatcher *matcher);
size_t llg_matcher_get_mask_byte_size(const LlgMatcher *matcher);
int32_t llg_matcher_consume_tokens(LlgMatcher *matcher, const uint32_t *tokens, size_t n_tokens);
int32_t llg_matcher_validate_tokens(LlgMatcher *matcher, const uint32_t *tokens, size_t n_tokens);
int32_t llg_matcher_compute_mask_into(LlgMatcher *matcher, uint32_t *mask, size_t mask_bytes);
"""


class GrammarError(RequestError):
    """A grammar that cannot be compiled, is satisfied by nothing, or takes more work than it may."""


@cache
def _library() -> tuple[Any, Any]:
    """The interface and the library. Raises EngineError for a version of another interface."""
    # Not imported before somebody needs it: it is the largest of our libraries.
    import llguidance._lib as package

    ffi = FFI()
    ffi.cdef(_INTERFACE)
    library: Any = ffi.dlopen(package.__file__)
    init = ffi.new("LlgConstraintInit *")
    limits = package.LLParserLimits()
    try:
        library.llg_constraint_init_set_defaults(init, ffi.NULL)
        fitting = all(getattr(init, name) == getattr(limits, name) for name in LIMITS)
    except AttributeError:
        fitting = False
    if not fitting:
        raise EngineError("this version of llguidance has another C interface than 1.8")
    return ffi, library


def _first_line(text: str) -> str:
    return " ".join(text.split())[:300]


class TokenTrie:
    """A vocabulary as llguidance wants it. Building it takes long and needs no GIL."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises GrammarError for a vocabulary that cannot be constrained."""
        self._ffi, self._library = _library()
        ffi = self._ffi
        self._tokenizer = tokenizer
        self.size = tokenizer.vocab_size
        self.words = (self.size + 31) // 32  # of a mask
        self.end_tokens = sorted(tokenizer.eog)
        pieces = (tokenizer.piece(i, True) for i in range(self.size))
        self.pieces = [piece if len(piece) <= _LONGEST_TOKEN else b"" for piece in pieces]
        spelled = [
            _SPECIAL + piece if tokenizer.is_control(i) and not piece.startswith(_SPECIAL) else piece
            for i, piece in enumerate(self.pieces)
        ]
        lengths = np.array([len(piece) for piece in spelled], np.uint32)
        slices = [ffi.new("char[]", text.encode()) for text in _SLICES]
        init = ffi.new("LlgTokenizerInitV2 *")
        init.struct_size = ffi.sizeof("LlgTokenizerInitV2")
        init.vocab_size = self.size
        init.tok_eos = self.end_tokens[0]
        kept = [ffi.from_buffer("uint32_t[]", lengths), ffi.from_buffer("uint8_t[]", b"".join(spelled))]
        init.token_lens, init.token_bytes = kept
        init.tokenize_assumes_string = True
        # Not a callback into Python, which would want the GIL of threads that compute.
        init.tokenize_fn = ffi.cast(
            "size_t(*)(const void *, const uint8_t *, size_t, uint32_t *, size_t)", TOKENIZE_FOR_GRAMMAR
        )
        init.tokenize_user_data = ffi.cast("void *", tokenizer.address)
        kept.append(ffi.new("char *[]", [*slices, ffi.NULL]))
        init.slices = kept[-1]
        kept.append(ffi.new("uint32_t[]", self.end_tokens[1:]))
        init.tok_eos_extra, init.tok_eos_extra_count = kept[-1], len(self.end_tokens) - 1
        error = ffi.new("char[]", _ERROR_BYTES)
        made = self._library.llg_new_tokenizer_v2(init, error, _ERROR_BYTES)
        if not made:
            text = _first_line(ffi.string(error).decode(errors="replace"))
            raise GrammarError(f"the model's vocabulary is more than can be constrained: {text}")
        self._handle = ffi.gc(made, self._library.llg_free_tokenizer)

    def tokenize(self, text: bytes) -> list[int]:
        """The tokens of a text, which may end within a character."""
        output = self._ffi.new("uint32_t[]", len(text))  # a token has a byte at least
        count = self._library.llg_tokenize_bytes(self._handle, text, len(text), output, len(text))
        return list(output[0:count])

    def matcher(self, grammar: str) -> Matcher:
        """A grammar in its first state. Raises GrammarError."""
        init = self._ffi.new("LlgConstraintInit *")
        self._library.llg_constraint_init_set_defaults(init, self._handle)
        init.log_stderr_level = 0
        for name, value in LIMITS.items():
            setattr(init, name, value)
        handle = self._library.llg_new_matcher(init, b"llguidance", grammar.encode())
        made = Matcher(self, self._ffi, self._library, handle)
        if error := made.error():
            raise GrammarError(f"invalid format: {error}")
        return made


class Matcher:
    """Where an answer stands in its grammar. One thread at a time may use it."""

    def __init__(self, trie: TokenTrie, ffi: Any, library: Any, handle: Any) -> None:
        self._trie = trie  # its tokenizer is called back
        self._ffi = ffi
        self._library = library
        self._handle = ffi.gc(handle, library.llg_free_matcher)

    def clone(self) -> Matcher:
        return Matcher(self._trie, self._ffi, self._library, self._library.llg_clone_matcher(self._handle))

    def state(self) -> GrammarState:
        """For the core, which may then use it too."""
        addressof = self._ffi.addressof
        state, validate, fill = (
            int(self._ffi.cast("uintptr_t", pointer))
            for pointer in (
                self._handle,
                addressof(self._library, "llg_matcher_validate_tokens"),
                addressof(self._library, "llg_matcher_compute_mask_into"),
            )
        )
        return GrammarState(self, state, validate, fill, self._trie.size)

    def error(self) -> str:
        """What went wrong, once and for all; empty as long as nothing has."""
        text = self._library.llg_matcher_get_error(self._handle)
        return _first_line(self._ffi.string(text).decode(errors="replace")) if text else ""

    def consume(self, tokens: Sequence[int]) -> bool:
        """Go on with tokens; False where the grammar does not allow them."""
        if self._library.llg_matcher_is_stopped(self._handle):
            return not self.error() and all(token in self._trie.end_tokens for token in tokens)
        return bool(self._library.llg_matcher_consume_tokens(self._handle, tokens, len(tokens)) == 0)

    def allows(self, tokens: Sequence[int]) -> bool:
        """Whether the grammar may go on with all of these tokens."""
        count = self._library.llg_matcher_validate_tokens(self._handle, tokens, len(tokens))
        return bool(count == len(tokens))

    def fill(self, mask: Words) -> bool:
        """Write which tokens may follow; False when that fails."""
        words = self._ffi.from_buffer("uint32_t[]", mask, require_writable=True)
        return bool(self._library.llg_matcher_compute_mask_into(self._handle, words, mask.nbytes) == 0)
