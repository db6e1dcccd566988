"""The matrix product kernels alone: share of memory bandwidth for few rows, operations for many.

    python -m benchmarks.kernels [--types Q4_1,Q8_0] [--isas avx2] [--threads 1] [--cols 2048]

One line of the table: a weight type under an instruction set. Up to M = 8 rows the matrix is larger than the
caches and the figure is GB/s of packed weights, and its share of what a plain read reaches; above, it is
GOPS (2 operations per multiply-add) on a matrix that fits. Quantization of the activations is included.
The best of several runs.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from ollamapy import _core

TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16", "F32"]
STREAM_BYTES = 96 << 20  # of weights: three times a large last-level cache
WARM_BYTES = 1 << 20


def matrix(kind: GGMLQuantizationType, cols: int, nbytes: int) -> tuple[_core._PackedMatrix, int]:
    """A matrix of about nbytes with small random weights, and its rows."""
    block, size = GGML_QUANT_SIZES[kind]
    row_bytes = cols // block * size
    rows = max(nbytes // row_bytes // 16, 1) * 16
    # One random row for all. No byte sets the high bits of an exponent: every f16 and f32 is finite.
    row = np.random.default_rng(0).integers(0, 0x3C, row_bytes, dtype=np.uint8)
    return _core._PackedMatrix(int(kind), np.tile(row, rows), rows, cols, 256), rows


def best(packed: _core._PackedMatrix, m: int, isa: str, threads: int, seconds: float = 0.3) -> float:
    """Seconds of the fastest product within about so many seconds."""
    end = time.monotonic() + seconds
    fastest = min(packed.time(m, isa, 2, threads))
    while time.monotonic() < end:
        fastest = min(fastest, *packed.time(m, isa, 2, threads))
    return fastest


def read_bandwidth(threads: int) -> float:
    """GB/s of the F32 product of one row: it does nothing but read."""
    packed, _ = matrix(GGMLQuantizationType.F32, 4096, STREAM_BYTES)
    return packed.nbytes / best(packed, 1, _core.available_isas()[0], threads) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--isas", default=",".join(isa for isa in _core.available_isas() if "-" not in isa))
    parser.add_argument("--rows", default="1,4,8,16,64,512", help="activation rows (M)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cols", type=int, default=2048, help="inner dimension, a multiple of 256")
    options = parser.parse_args()
    counts = [int(m) for m in options.rows.split(",")]

    peak = read_bandwidth(options.threads)
    print(f"threads {options.threads}, read {peak:.1f} GB/s, inner dimension {options.cols}\n")
    heads = [f"M={m} {'GB/s (share)' if m <= 8 else 'GOPS'}" for m in counts]
    print("| type | kernels | " + " | ".join(heads) + " |")
    print("| --- | --- |" + " ---: |" * len(counts))
    for name in options.types.split(","):
        kind = GGMLQuantizationType[name]
        large, _ = matrix(kind, options.cols, STREAM_BYTES)
        warm, rows = matrix(kind, options.cols, WARM_BYTES)
        for isa in options.isas.split(","):
            cells = []
            for m in counts:
                if m <= 8:
                    rate = large.nbytes / best(large, m, isa, options.threads) / 1e9
                    cells.append(f"{rate:.1f} ({100 * rate / peak:.0f} %)")
                else:
                    seconds = best(warm, m, isa, options.threads)
                    cells.append(f"{2e-9 * m * rows * options.cols / seconds:.0f}")
            print(f"| {name} | {isa} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
