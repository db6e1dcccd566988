"""Ask llama-quantize which type it gives each tensor, and how far its blocks are from the weights they stand for.

    export LLAMA_QUANTIZE=/elsewhere/llama-quantize
    python record_quantize.py minilm=all-minilm-f16.gguf smollm2=smollm2-f32.gguf

Writes quantize.json: `types` by model and file type, only the tensors that differ from the most common type of their
file; `rmse` by block type over the tensors *.ffn_down.weight of the first model.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize

PURE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_S", "Q4_K_S", "Q5_K_S", "Q6_K")
FILE_TYPES = (*PURE, "F16", "BF16", "Q3_K_M", "Q3_K_L", "Q4_K_M", "Q5_K_M")


def run(source: str, target: str, folder: Path, *flags: str) -> GGUFReader:
    out = folder / f"{target}.gguf"
    command = [os.environ["LLAMA_QUANTIZE"], *flags, source, str(out), target, "2"]
    subprocess.run(command, check=True, capture_output=True)
    return GGUFReader(out)


def values(reader: GGUFReader, name: str) -> np.ndarray:
    tensor = next(tensor for tensor in reader.tensors if tensor.name == name)
    return dequantize(tensor.data, tensor.tensor_type).astype(np.float64).ravel()


def main() -> None:
    models = dict(argument.split("=", 1) for argument in sys.argv[1:])
    types: dict[str, dict[str, dict[str, object]]] = {}
    rmse: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, source in models.items():
            types[name] = {}
            for target in FILE_TYPES:
                found = {t.name: t.tensor_type.name for t in run(source, target, Path(scratch)).tensors}
                usual = collections.Counter(found.values()).most_common(1)[0][0]
                others = {tensor: kind for tensor, kind in found.items() if kind != usual}
                types[name][target] = {"usual": usual, "others": others}
        source = next(iter(models.values()))
        weights = GGUFReader(source)
        down = [t.name for t in weights.tensors if t.name.endswith("ffn_down.weight")]
        for target in PURE:
            reader = run(source, target, Path(scratch), "--pure")
            errors = [np.mean((values(reader, n) - values(weights, n)) ** 2) for n in down]
            rmse[target.removesuffix("_S")] = float(np.sqrt(np.mean(errors)))
    out = Path(__file__).with_name("quantize.json")
    out.write_text(json.dumps({"types": types, "rmse": rmse}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
