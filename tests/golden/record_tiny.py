"""Makes tiny random models (Qwen3, Llama with Llama 3's rope, Gemma 3) and records transformers' logits.

python record_tiny.py

Writes models/tiny-{qwen3,llama,gemma3}.gguf (F32, with a small tokenizer) and, beside each, an .npz: ids (40)
and logits (40, vocabulary). With ORACLE_LLAMA set, prints how far llama.cpp's F32 evaluation of the files is
from them (its GELU goes through an f16 table). Weights are multiples of 1/64: the repository packs them well.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import oracle
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

MODELS = oracle.GOLDEN / "models"
HIDDEN, HEAD_DIM, VOCAB, TOKENS = 64, 32, 320, 40
Array = np.ndarray

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def randomize(model: PreTrainedModel, seed: int) -> None:
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            values = random.normal(0.0, 0.15, tuple(parameter.shape))
            if parameter.ndim == 1 and "gemma3" not in model.config.model_type:
                values += 1.0  # Gemma's norms multiply by 1 + weight
            parameter.copy_(torch.from_numpy(np.round(values * 64) / 64).to(torch.float32))


def gguf_name(name: str, table: dict[str, str]) -> str:
    if name in table:
        return table[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{table[rest.removesuffix('.weight')]}.weight"


def interleave(weight: Array) -> Array:
    """Rows of Q or K from rotating halves (i, i + d/2) to rotating neighbours (2i, 2i + 1), head by head."""
    return weight.reshape(-1, 2, HEAD_DIM // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def add_bpe(writer: gguf.GGUFWriter, pre: str) -> None:
    merges = "Ġ t,h e,Ġ a,i n,Ġt he,r e,o n,e r,a n,Ġ o,Ġo f,i s,Ġ i,e n,Ġi n,a t,o r,an d,e s,in g"
    pairs = [*merges.split(","), "Ġ and", "l l", "o u", "Ġ w"]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>"]
    tokens = byte_symbols() + [pair.replace(" ", "") for pair in pairs] + specials
    types = [gguf.TokenType.NORMAL] * (256 + len(pairs)) + [gguf.TokenType.CONTROL] * len(specials)
    while len(tokens) < VOCAB:
        tokens.append(f"[PAD{len(tokens)}]")
        types.append(gguf.TokenType.UNUSED)
    first = 256 + len(pairs)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(pairs)
    writer.add_bos_token_id(first + (3 if pre == "llama-bpe" else 0))
    writer.add_eos_token_id(first + 2)
    writer.add_add_bos_token(pre == "llama-bpe")


def add_spm(writer: gguf.GGUFWriter) -> None:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.UNKNOWN] + [gguf.TokenType.BYTE] * 256
    pieces = [
        "▁t",
        "he",
        "▁the",
        "in",
        "er",
        "an",
        "re",
        "on",
        "at",
        "en",
        "or",
        "is",
        "▁a",
        "▁o",
        "▁of",
        "▁in",
        "ing",
        "nd",
        "▁an",
        "▁and",
    ]
    pieces += list("▁etaoinshrdlucmfwypvbgkqjxz.,")
    pieces = pieces[: VOCAB - len(tokens)]
    scores = [-1000.0] * len(tokens) + [-float(rank) for rank in range(len(pieces))]
    tokens += pieces
    types += [gguf.TokenType.NORMAL] * len(pieces)
    while len(tokens) < VOCAB:
        tokens.append(f"<unused{len(tokens)}>")
        types.append(gguf.TokenType.CONTROL)
        scores.append(-1000.0)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def write(
    name: str, model: PreTrainedModel, architecture: str, extend: Callable[[gguf.GGUFWriter], None]
) -> Path:
    config, path = model.config, MODELS / f"tiny-{name}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"tiny {name}")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    extend(writer)
    for hf_name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        if architecture == "llama" and ("q_proj" in hf_name or "k_proj" in hf_name):
            weight = interleave(weight)
        if architecture == "gemma3" and weight.ndim == 1:
            weight = weight + np.float32(1)
        table = NAMES | (GEMMA_NAMES if architecture == "gemma3" else {})
        writer.add_tensor(gguf_name(hf_name, table), np.ascontiguousarray(weight, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def record(name: str, model: PreTrainedModel, path: Path) -> None:
    ids = np.random.default_rng(7).integers(4, 256, TOKENS)
    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0].numpy()
    np.savez_compressed(MODELS / f"tiny-{name}.npz", ids=ids.astype(np.int32), logits=logits)
    print(path.name, path.stat().st_size, "bytes; logits of standard deviation", float(logits.std()))
    if "ORACLE_LLAMA" in os.environ:
        (theirs,) = oracle.logits(path, [ids.tolist()], 0, TOKENS, VOCAB, "f32")
        print("  llama.cpp's F32 evaluation differs by at most", float(np.abs(theirs - logits).max()))


def llama3_factors(base: float, scaling: dict[str, float]) -> Array:
    """What each rotation frequency is divided by: 1 for the fast, `factor` for the slow, a ramp between."""
    waves = 2 * math.pi * base ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    low, high, context = (
        scaling[key] for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    ramp = np.clip((context / waves - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - ramp) / scaling["factor"] + ramp), np.float32)


def main() -> None:
    common: dict[str, Any] = dict(
        vocab_size=VOCAB, hidden_size=HIDDEN, head_dim=HEAD_DIM, max_position_embeddings=512
    )
    common |= dict(attn_implementation="eager", dtype=torch.float32)

    rope: dict[str, object] = {"rope_type": "default", "rope_theta": 1e6}
    qwen3 = Qwen3ForCausalLM(
        Qwen3Config(
            **common, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            rms_norm_eps=1e-6, tie_word_embeddings=False, rope_parameters=rope,
        )
    ).eval()  # fmt: skip
    randomize(qwen3, 1)

    def qwen3_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_freq_base(1e6)
        add_bpe(writer, "qwen2")

    record("qwen3", qwen3, write("qwen3", qwen3, "qwen3", qwen3_keys))

    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    llama = LlamaForCausalLM(
        LlamaConfig(
            **common, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            rms_norm_eps=1e-5, tie_word_embeddings=False,
            rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling},
        )
    ).eval()  # fmt: skip
    randomize(llama, 2)

    def llama_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_freq_base(5e5)
        writer.add_rope_dimension_count(HEAD_DIM)
        writer.add_vocab_size(VOCAB)
        writer.add_tensor("rope_freqs.weight", llama3_factors(5e5, scaling))
        add_bpe(writer, "llama-bpe")

    record("llama", llama, write("llama", llama, "llama", llama_keys))

    gemma3 = Gemma3ForCausalLM(
        Gemma3TextConfig(
            **common, intermediate_size=64, num_hidden_layers=7, num_attention_heads=2, num_key_value_heads=1,
            rms_norm_eps=1e-6, query_pre_attn_scalar=HEAD_DIM, sliding_window=8,
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        )
    ).eval()  # fmt: skip
    randomize(gemma3, 3)

    def gemma3_keys(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_freq_base(1e6)
        writer.add_sliding_window(8)
        add_spm(writer)

    record("gemma3", gemma3, write("gemma3", gemma3, "gemma3", gemma3_keys))


if __name__ == "__main__":
    main()
