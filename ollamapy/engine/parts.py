"""What a model is made of, before and after its weights are read."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ollamapy import _core
from ollamapy.engine.memory import LEAST_TOKENS, kv_bytes, pages_needed
from ollamapy.models import check
from ollamapy.models.architecture import Architecture
from ollamapy.models.bert import Bert
from ollamapy.models.lora import Adapter, new_graph, read_adapter
from ollamapy.types import RequestError, UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Settings:
    """What bounds the steps of a model."""

    prefill_rows: int = 256  # prompt rows in a step, beside the decoding ones
    max_sequences: int = 64  # requests of a model that run at once; the others wait
    prefix_cache: bool = True  # whether requests share the pages of equal beginnings
    kv_type: str = "f16"  # what they hold: f16, q8_0 or q4_0


@dataclass(slots=True)
class Parts:
    """A file that was checked and compiled. Its weights are not read before read()."""

    file: _core.GGUFFile
    architecture: Architecture
    weights: _core.Weights
    adapter: Adapter | None
    program: _core.Program  # the generating one, or that of an embedding model
    settings: Settings
    _tokenizer: Future[_core.Tokenizer]  # built meanwhile

    @property
    def tokenizer(self) -> _core.Tokenizer:
        """Raises GGUFError."""
        return self._tokenizer.result()

    def graph(self) -> _core.Graph:
        return new_graph(self.weights, self.adapter)

    def read(self) -> None:
        """Read the weights; blocks. Raises GGUFError, OSError, MemoryError, and RuntimeError after stop()."""
        self.weights.read()
        self._tokenizer.result()

    def stop(self) -> None:
        """Let read(), in another thread, end soon: it raises RuntimeError."""
        self.weights.stop()

    @property
    def fixed_bytes(self) -> int:
        """Memory that it takes apart from KV pages: weights and scratch."""
        return self.weights.nbytes + self.program.arena_bytes

    def needed_bytes(self, num_ctx: int) -> int:
        """Memory with the KV pages of one sequence of num_ctx tokens, or of the shortest worth a pool."""
        return self.fixed_bytes + self.kv_bytes(num_ctx)

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of the KV pages of one sequence."""
        if isinstance(self.architecture, Bert):
            return kv_bytes(self.program.groups, bert_pages(self.program))
        return kv_bytes(self.program.groups, self.sequence_pages(tokens))

    def sequence_pages(self, tokens: int) -> list[int]:
        """Pages of each layer group for one sequence, LEAST_TOKENS at least, the model's context at most."""
        tokens = min(max(tokens, LEAST_TOKENS), self.architecture.context_length)
        rows = self.settings.prefill_rows
        return [pages_needed(group.window, tokens, rows, _core.PAGE_TOKENS) for group in self.program.groups]


def bert_pages(program: _core.Program) -> list[int]:
    """Pages of scratch for the texts of one step."""
    return [-(-program.max_rows // _core.PAGE_TOKENS) + program.max_outputs] * len(program.groups)


def prepare(path: str, device: _core.Device, settings: Settings, adapter_path: str = "") -> Parts:
    """Check a file and compile its main program; blocks. adapter_path, if not empty, is a LoRA that is applied.

    Raises UnsupportedModelError, GGUFError, OSError, MemoryError.
    """
    file = _core.GGUFFile(path)
    architecture = check(file)
    adapter = read_adapter(_core.GGUFFile(adapter_path), file) if adapter_path else None
    weights = _core.Weights(file, device, None if adapter is None else adapter.file, deferred=True)
    try:
        program = _compile(architecture, new_graph(weights, adapter), settings)
    except (_core.GGUFError, RequestError):
        raise
    except (ValueError, KeyError) as error:  # what the graph says of shapes
        raise UnsupportedModelError(f"the tensors do not fit the hyperparameters: {error}") from None
    side = ThreadPoolExecutor(1, thread_name_prefix="vocabulary")  # beside the weights, neither with the GIL
    tokenizer = side.submit(_core.Tokenizer, file)
    side.shutdown(wait=False)
    return Parts(file, architecture, weights, adapter, program, settings, tokenizer)


def _compile(architecture: Architecture, graph: _core.Graph, settings: Settings) -> _core.Program:
    if isinstance(architecture, Bert):
        # A text is never split, so a step has room for the longest.
        rows = max(architecture.context_length, settings.prefill_rows)
        return graph.compile(architecture.pooled(graph), rows, settings.max_sequences)
    rows = settings.prefill_rows + settings.max_sequences
    return graph.compile(architecture.logits(graph), rows, settings.max_sequences, settings.kv_type)
