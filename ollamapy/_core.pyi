"""The native core: GGUF files, tokenizers, the graph compiler and the device thread (csrc/)."""

from collections.abc import Sequence as SequenceOf
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

PAGE_TOKENS: int
"""Tokens in one KV page."""

BLOCK_TYPES: dict[str, tuple[int, int, int]]
"""The tensor types that can be computed with: number in the file, values per block, bytes per block."""

class GGUFError(ValueError):
    """A file is not what it claims to be; the message names the field and the byte offset."""

@final
class TensorInfo:
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str:
        """The block type as the field prints it: "Q4_K"."""
    @property
    def type_id(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions in the file's order: the contiguous one first (a linear layer is (inputs, outputs))."""
    @property
    def offset(self) -> int:
        """Byte offset from the start of the file."""
    @property
    def nbytes(self) -> int: ...

@final
class GGUFFile:
    """A GGUF v2 or v3 file, checked whole before anything is used. Tensors are read with pread, nothing is mapped.

    Raises GGUFError for a malformed file, OSError when it cannot be opened.
    """

    def __init__(self, path: str) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def alignment(self) -> int: ...
    @property
    def size(self) -> int:
        """Bytes of the file."""
    def keys(self) -> list[str]:
        """Metadata keys in file order."""
    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value: int, float, bool, str or list; default when the key is absent."""
    def array_length(self, key: str) -> int:
        """Length of an array value without converting it. Raises KeyError for an absent key, GGUFError for a scalar."""
    def tensors(self) -> list[TensorInfo]: ...
    def tensor(self, name: str) -> TensorInfo:
        """Raises KeyError."""
    def read(self, name: str) -> NDArray[np.uint8]:
        """The raw bytes of a tensor. Raises KeyError, GGUFError when the file ends early."""
    def dequantize(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32, shape reversed to NumPy's order. Raises KeyError, GGUFError."""

def dequantize(type_id: int, data: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
    """Scalar reference: count values of a block type. Raises ValueError for sizes that do not fit."""

def quantize(type_id: int, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blocks of a type, of values in rows of whole blocks. The GIL is released. Raises ValueError for a count that
    makes no whole blocks and for values that are not finite or too large for the type."""

def f32_to_f16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of half precision, rounded to nearest even; same shape."""

@final
class Tokenizer:
    """The tokenizer of a GGUF file: byte-level BPE, SentencePiece or WordPiece, by tokenizer.ggml.model.

    Raises GGUFError for a vocabulary that is missing, inconsistent or of an unknown kind.
    """

    def __init__(self, file: GGUFFile) -> None: ...
    @property
    def kind(self) -> str:
        """One of "bpe", "spm", "wordpiece"."""
    @property
    def vocab_size(self) -> int: ...
    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> int | None: ...
    @property
    def eog(self) -> frozenset[int]:
        """Every token that ends a generation."""
    @property
    def add_bos(self) -> bool: ...
    @property
    def add_eos(self) -> bool: ...
    @property
    def address(self) -> int:
        """What TOKENIZE_FOR_GRAMMAR knows it by; good as long as the tokenizer lives."""
    def encode(self, text: str | bytes, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids. add_special adds BOS/EOS (CLS/SEP) as the file says; parse_special recognizes control tokens
        written out in the text. The GIL is released. Invalid UTF-8 is read as U+FFFD."""
    def decode(self, tokens: SequenceOf[int], special: bool = False) -> bytes:
        """The bytes of tokens; control tokens only if special. Raises ValueError for an id out of range."""
    def piece(self, token: int, special: bool = False) -> bytes: ...
    def token_text(self, token: int) -> str:
        """The token as the vocabulary writes it."""
    def is_control(self, token: int) -> bool: ...

TOKENIZE_FOR_GRAMMAR: (
    int  # address of a C function: LlgTokenizeFn of llguidance, whose user data is Tokenizer.address
)

@final
class Detokenizer:
    """Streams tokens into text and never emits a part of a character."""

    def __init__(self, tokenizer: Tokenizer, special: bool = False) -> None: ...
    def push(self, token: int) -> str:
        """The text that is complete after token; invalid bytes become U+FFFD."""
    def flush(self) -> str:
        """Ends the stream; an incomplete last character is dropped."""
    @property
    def pending(self) -> int:
        """Bytes held back."""

@final
class Device:
    """The CPU: an instruction set and a process-wide thread pool.

    threads 0 takes the number of CPUs this process may use (affinity and cgroup quota). isa "" takes the widest
    that the CPU runs. Raises ValueError for an instruction set that the CPU lacks.
    """

    def __init__(self, threads: int = 0, isa: str = "") -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    def measure_peak(self, kind: str, seconds: float = 0.5) -> float:
        """Operations per second that all threads reach together when they do nothing else, a multiplication and its
        addition counting two: of products of bytes ("int8", as the instruction set has them) or of floats ("f32").
        The best of several runs. Raises ValueError."""

def available_isas() -> list[str]:
    """Instruction sets that this CPU can run, widest first: "avx512", "avx2", "portable"."""

@final
class Weights:
    """The tensors of a file, repacked for a device on first use and shared by all programs of the model.

    adapter is a second file whose tensors are found too, where the first has none of their name. With deferred,
    compiling reads no matrix before read(): what the model takes is known by then.
    """

    def __init__(
        self, file: GGUFFile, device: Device, adapter: GGUFFile | None = None, deferred: bool = False
    ) -> None: ...
    def read(self) -> None:
        """Read what the programs compiled so far need. Raises GGUFError, MemoryError, RuntimeError after stop()."""
    def stop(self) -> None:
        """Let a read in another thread, or any later one, end at its next piece."""
    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that the programs compiled so far need."""

@final
class Value:
    """A node of a graph: a matrix of symbolic rows by width float32 values."""

    @property
    def width(self) -> int: ...
    @property
    def rows(self) -> str:
        """One of "tokens", "logits" (rows that will be sampled), "sequences"."""
    def __add__(self, other: Value) -> Value: ...

@final
class Graph:
    """Writes a transformer down once; compile() fuses it, plans its memory and returns the Program.

    Weights are named as in the file. Every method raises GGUFError for a missing tensor or one of the wrong shape
    and ValueError for values that do not fit together.
    """

    def __init__(self, weights: Weights) -> None: ...
    def has(self, weight: str) -> bool: ...
    def shape(self, weight: str) -> tuple[int, ...]:
        """The file's shape of a tensor, contiguous dimension first."""
    def embed(self, weight: str, index: str = "token") -> Value:
        """Rows of a table, picked by "token", "position" or "zero" (always row 0)."""
    def scale(self, x: Value, factor: float) -> Value: ...
    def add(self, a: Value, b: Value) -> Value: ...
    def rms_norm(self, x: Value, weight: str, eps: float, head_dim: int = 0) -> Value:
        """RMSNorm over the whole width, or over each head_dim values (QK-norm)."""
    def layer_norm(self, x: Value, weight: str, bias: str, eps: float) -> Value: ...
    def linear(self, x: Value, weight: str, bias: str = "") -> Value: ...
    def rope(
        self,
        x: Value,
        head_dim: int,
        base: float,
        pairing: str,
        rotary_dims: int = 0,
        linear_scale: float = 1.0,
        factors: str = "",
    ) -> Value:
        """Rotary embedding. pairing is "interleaved" or "halves"; positions are divided by linear_scale; factors
        names a tensor of rotary_dims / 2 divisors of the frequencies (Llama 3)."""
    def attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        head_dim: int,
        scale: float,
        window: int = 0,
        bidirectional: bool = False,
        softcap: float = 0.0,
    ) -> Value:
        """Attention over the sequence. Causal layers keep K and V in the paged cache, in the layer group of their
        window (0: global); a token sees itself and the window - 1 tokens before it. A bidirectional layer sees
        the whole sequence of the same step and caches nothing."""
    def silu(self, x: Value) -> Value: ...
    def gelu(self, x: Value, approximate: str = "tanh") -> Value:
        """approximate: "tanh" or "none" (erf)."""
    def swiglu(self, gate: Value, up: Value) -> Value: ...
    def geglu(self, gate: Value, up: Value) -> Value: ...
    def softcap(self, x: Value, cap: float) -> Value: ...
    def select_logit_rows(self, x: Value) -> Value:
        """Keeps the rows that will be sampled: everything after it is computed for them alone."""
    def pool(self, x: Value, kind: str, normalize: bool = True) -> Value:
        """One row per sequence: "mean", "cls" or "last"; normalize divides by the L2 norm."""
    def compile(
        self, output: Value, max_rows: int = 512, max_outputs: int = 64, kv_type: str = "f16"
    ) -> Program:
        """max_rows: most tokens in one step; max_outputs: most logit rows (or sequences of a pooled graph).
        kv_type: what KV pages hold, "f16", "q8_0" or "q4_0"; the scratch pages of bidirectional layers hold f16.
        Raises ValueError, GGUFError, MemoryError."""

@final
class LayerGroup:
    @property
    def window(self) -> int:
        """0: global."""
    @property
    def layers(self) -> int: ...
    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers of the group."""

@final
class Instruction:
    """A kernel call of a program."""

    @property
    def op(self) -> str:
        """Either "rows" (row-wise operations), "matmul", "rope_table", "heads" (QK-norm, RoPE and the writing of K
        and V), "attention" or "pool"."""
    @property
    def rows(self) -> str:
        """What it has a row for: "tokens", "logits" (those that will be sampled) or "sequences"."""
    @property
    def text(self) -> str:
        """Its line of Program.describe, without the number."""
    @property
    def weights(self) -> list[tuple[str, str, int, int, int]]:
        """Of a product its matrices: name, type, outputs, inputs, bytes as packed."""

@final
class Program:
    """A flat list of kernel calls over one arena."""

    @property
    def kind(self) -> str:
        """Either "logits" or "pooled"."""
    @property
    def output_width(self) -> int: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def max_outputs(self) -> int: ...
    @property
    def groups(self) -> list[LayerGroup]:
        """Layer groups of the KV cache, in the order of page tables. A bidirectional program has one group of one
        layer whose pages are scratch for one step."""
    @property
    def arena_bytes(self) -> int: ...
    @property
    def instructions(self) -> list[Instruction]: ...
    def describe(self) -> str:
        """The instructions, one a line."""

def release_memory() -> None:
    """Give what the allocator keeps for later back to the system: after a model was unloaded."""

@final
class KVCache:
    """The pages of a model: one pool per layer group. Memory is taken from the system as pages are touched.

    Raises ValueError when pages does not have one count per group, MemoryError when the reservation is refused.
    """

    def __init__(self, program: Program, pages: SequenceOf[int]) -> None: ...
    @property
    def pages(self) -> list[int]: ...
    def give_back(self, group: int, pages: SequenceOf[int]) -> None:
        """Give the memory of pages back to the system; what they held is lost, and they can be used again.

        No step that uses them may be queued or running. Raises ValueError for a page that is not there.
        """
    @property
    def nbytes(self) -> int:
        """Bytes reserved."""

@final
class SamplingParams:
    """How a token is drawn, in Ollama's order: penalties, top_k, typical_p, top_p, min_p, temperature.

    temperature <= 0 is greedy (ties go to the lower id). A draw is a function of (seed, branch, position).
    logprobs < 0: none; n >= 0: the chosen token's and the n best, of the model before all of these. logit_bias:
    (token, what is added to its logit before the penalties). Raises ValueError for values out of range or NaN.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.9,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        repeat_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_last_n: int = 64,
        seed: int = 0,
        branch: int = 0,
        logprobs: int = -1,
        logit_bias: SequenceOf[tuple[int, float]] = (),
    ) -> None: ...

def sample(
    logits: NDArray[np.float32],
    history: SequenceOf[int],
    params: SamplingParams,
    position: int,
    mask: NDArray[np.uint32] | None = None,
) -> tuple[int, float, list[tuple[int, float]]]:
    """One draw outside a step: (token, its logprob or nan, the top logprobs). mask: uint32 words, bit i % 32 of word
    i / 32 says whether token i may be drawn. Raises ValueError for NaN logits and for a mask that leaves nothing."""

@final
class GrammarState:
    """Where an answer stands in its grammar, for the core to ask: addresses of llguidance's matcher, of its
    llg_matcher_validate_tokens and llg_matcher_compute_mask_into, and the tokens of its vocabulary. owner keeps
    them alive. Raises ValueError for an address or a size of 0."""

    def __init__(self, owner: object, state: int, validate: int, fill: int, tokens: int) -> None: ...

@final
class Sequence:
    """Tokens of one request in the core: the prompt, then what was sampled. The device thread appends to it, so a
    step may be planned before the token it starts from is known."""

    def __init__(
        self,
        tokens: SequenceOf[int],
        sampling: SamplingParams | None = None,
        constrained: bool = False,
        grammar: GrammarState | None = None,
    ) -> None:
        """constrained, which a grammar implies: every position waits for set_mask() or ask_grammar(). A step that finds
        none waits some milliseconds, then reports the item as late and leaves the sequence as it is."""
    def set_mask(self, position: int, mask: NDArray[np.uint32]) -> None:
        """Which tokens may stand at position, uint32 words as sample() has them. It is copied. Raises ValueError
        for a sequence that is not constrained."""
    def ask_grammar(self, position: int, mask: NDArray[np.uint32] | None = None) -> None:
        """Draw the token of position freely; if the grammar refuses it, draw again from the grammar's mask, computed
        then unless it is given. Until the draw is seen nobody else may use the grammar. Raises ValueError for a
        sequence without one."""
    @property
    def mask_seconds(self) -> float:
        """How long the last draw computed a mask. Raises ValueError for a sequence that is not constrained."""
    def close_mask(self) -> None:
        """Nothing will come any more: its items are late at once, and no draw uses the grammar from here on."""
    def set_page(self, group: int, index: int, page: int) -> None:
        """Page table entry: positions [32 index, 32 index + 32) of group lie in page; -1 drops it."""

@final
class Sample:
    @property
    def item(self) -> int:
        """Index of the step item."""
    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float:
        """nan when logprobs were not asked for."""
    @property
    def top(self) -> list[tuple[int, float]]: ...

@final
class StepResult:
    @property
    def step(self) -> int: ...
    @property
    def started(self) -> float:
        """time.monotonic() when the step began."""
    @property
    def ended(self) -> float: ...
    @property
    def samples(self) -> list[Sample]: ...
    @property
    def output(self) -> NDArray[np.float32] | None:
        """Pooled rows [sequences, width] of a pooled program; the logit rows of a step submitted with want_logits."""
    @property
    def error(self) -> str | None:
        """Why the whole step failed."""
    @property
    def item_errors(self) -> list[tuple[int, str]]:
        """(item, why) of the items that failed by themselves (NaN logits, a token outside the vocabulary); the others
        are right."""
    @property
    def late(self) -> list[int]:
        """Items that were not sampled because their mask had not come; their rows are in the pages."""

@final
class Runner:
    """The device thread: runs submitted steps one after the other without the GIL, samples, and feeds the sampled
    token to the next step inside the core. It signals fileno() once per finished step."""

    def __init__(self, device: Device) -> None: ...
    def fileno(self) -> int: ...
    def submit(
        self,
        program: Program,
        cache: KVCache,
        items: SequenceOf[tuple[Sequence, int, int, int]],
        want_logits: bool = False,
        copies: SequenceOf[tuple[int, int, int]] = ...,
    ) -> int:
        """Queue a step and return its number. An item is (sequence, first position, tokens, outputs): its tokens are
        read from the sequence when the step runs; the last `outputs` rows get logits (0: none, 1: sample; more only
        with want_logits). With want_logits nothing is sampled and the logit rows come back. copies: (group, from, to),
        pages to be copied one after the other before the step runs.
        Raises ValueError for a step that does not fit the program, pages that are missing or out of range."""
    def drain(self) -> list[StepResult]:
        """Results that are ready; never blocks."""
    def wait(self) -> list[StepResult]:
        """Block until every submitted step has ended and return the results not yet drained. The GIL is released."""
    def close(self) -> None:
        """Finish queued steps and end the thread."""
    def start_profile(self) -> None:
        """Wait for queued steps, then time every instruction until stop_profile."""
    def stop_profile(self) -> list[int]:
        """Nanoseconds by instruction of the program, summed over the steps in between."""

def _row_op(
    isa: str, op: str, arrays: SequenceOf[NDArray[np.float32]], number: float = 0.0
) -> NDArray[np.float32]:
    """One row kernel on rows of n values, for tests: op is the kernel's name, arrays its rows, number its factor,
    cap or eps. log_sum_exp returns [max, log sum]. Raises ValueError for an unknown name or arrays that do not fit."""

def _rope(
    isa: str, x: NDArray[np.float32], cos: NDArray[np.float32], sin: NDArray[np.float32], pairing: str
) -> NDArray[np.float32]:
    """Rotates the heads [heads, head_dim] of one token; cos and sin are [rotary_dims / 2]."""

def _store_kv(
    isa: str,
    pool: NDArray[np.uint8],
    layout: SequenceOf[int],
    page: int,
    slot: int,
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    kv_type: str = "f16",
) -> None:
    """Writes one token's K [kv heads, head_dim] and V [kv heads, v_dim] into a pool. layout is (page_stride, k_offset,
    v_offset, kv heads, head_dim, v_dim), the first three in bytes and even."""

def _attention(
    isa: str,
    pool: NDArray[np.uint8],
    layout: SequenceOf[int],
    pages: NDArray[np.int32],
    q: NDArray[np.float32],
    visible_begin: NDArray[np.int32],
    visible_end: NDArray[np.int32],
    scale: float,
    softcap: float = 0.0,
    group_rows: int = 8,
    segments: int = 0,
    kv_type: str = "f16",
) -> NDArray[np.float32]:
    """Attention of q [rows, heads, head_dim] over the pages of one sequence: [rows, heads, v_dim]. Rows run in groups
    of group_rows; with segments > 0 in two parts, that many segments of 256 positions at a time."""

@final
class _PackedMatrix:
    """A weight matrix in the kernels' layout, for tests and benchmarks of the kernels by themselves.

    weights: rows as they lie in the file, packed in calls of rows_per_call rows (0: one call).
    Raises ValueError for an unknown type and for sizes that do not fit.
    """

    PANEL_ROWS: int
    """Activation rows of a panel: kernels start at multiples of it."""

    def __init__(
        self, type_id: int, weights: NDArray[np.uint8], rows: int, cols: int, rows_per_call: int = 0
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def row(self, index: int) -> NDArray[np.float32]:
        """One row dequantized from the packed form: [cols]. Raises IndexError."""
    def matmul(
        self,
        x: NDArray[np.float32],
        isa: str,
        bias: NDArray[np.float32] | None = None,
        residual: NDArray[np.float32] | None = None,
        tile_step: int = 0,
        row_step: int = 0,
    ) -> NDArray[np.float32]:
        """x [m, cols] by the matrix: [m, rows], + bias [rows], + residual [m, rows]; in calls of tile_step tiles of
        16 rows and row_step activation rows (0: all). Raises ValueError."""
    def time(self, m: int, isa: str, repeats: int = 1, threads: int = 1) -> list[float]:
        """Seconds of each of repeats products with m rows, quantization of the rows included."""
