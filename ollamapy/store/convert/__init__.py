"""Model folders as their authors publish them, safetensors with JSON beside them, become GGUF files."""

from __future__ import annotations

from collections.abc import Iterator

from ollamapy.store.convert.bert import bert_metadata, bert_tensors
from ollamapy.store.convert.config import Config, Files, folder_files
from ollamapy.store.convert.decoder import Decoder, Gemma3Converter, LlamaConverter, Qwen3Converter
from ollamapy.store.convert.safetensors import read_tensors
from ollamapy.store.convert.tokenizer import tokenizer_rows
from ollamapy.store.errors import ConversionError
from ollamapy.store.gguf_writer import Metadata, Tensor, gguf_chunks

__all__ = ["convert_model", "folder_files"]

_F16_FILE, _BF16_FILE = 1, 32  # llama.cpp's numbers of file types
_DECODERS: dict[str, type[Decoder]] = {
    "LlamaForCausalLM": LlamaConverter,
    "Qwen3ForCausalLM": Qwen3Converter,
    "Gemma3ForCausalLM": Gemma3Converter,
    "Gemma3ForConditionalGeneration": Gemma3Converter,  # its text model
}
_BERT = "BertModel"


def convert_model(files: Files, name: str = "") -> Iterator[bytes]:
    """The bytes of a GGUF made of a model folder: matrices in F16, or BF16 where they were, the rest in F32.

    Metadata stand in the order of their keys, as Ollama's converter writes them. Everything is checked before
    the iterator is returned, but for files that end early. Raises ConversionError.
    """
    try:
        rows, tensors = _convert(files)
    except (
        AttributeError,
        TypeError,
        KeyError,
        IndexError,
    ) as error:  # JSON of another form than anybody writes
        raise ConversionError(f"the model's files cannot be read: {error}") from None
    rows += _general(tensors, name)
    return gguf_chunks(sorted(rows, key=lambda row: row[0]), _ordered(tensors))


def _convert(files: Files) -> tuple[Metadata, list[Tensor]]:
    config = Config.read(files)
    architecture = config.architecture
    sources = read_tensors(files)
    if architecture == _BERT:
        return bert_metadata(files, config), bert_tensors(config, sources)
    if architecture in _DECODERS:
        text = config.section("text_config") if config.get("text_config") is not None else config
        decoder = _DECODERS[architecture](text)
        tensors = decoder.tensors(sources)
        embedding = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
        return decoder.metadata() + tokenizer_rows(files, config, embedding.shape[0]), tensors
    raise ConversionError(f'unsupported architecture "{architecture}"')


def _general(tensors: list[Tensor], name: str) -> Metadata:
    widths = {kind: sum(t.nbytes for t in tensors if t.type == kind) for kind in ("F16", "BF16")}
    rows: Metadata = [
        ("general.file_type", "u32", _BF16_FILE if widths["BF16"] > widths["F16"] else _F16_FILE),
        ("general.quantization_version", "u32", 2),
    ]
    return [*rows, ("general.name", "string", name)] if name else rows


def _ordered(tensors: list[Tensor]) -> list[Tensor]:
    """Layers in their order, what belongs to none before them."""

    def place(tensor: Tensor) -> tuple[int, str]:
        parts = tensor.name.split(".")
        return (int(parts[1]) if parts[0] == "blk" else -1, tensor.name)

    return sorted(tensors, key=place)
