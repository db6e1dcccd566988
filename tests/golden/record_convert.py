"""Makes tiny random model folders with transformers and records their logits, vectors and tokens.

python record_convert.py

Writes convert/{llama,qwen3,gemma3,bert}/: config.json, safetensors and tokenizer files as save_pretrained()
writes them, and expected.npz: ids and logits (or texts' vectors), tokens of each of texts. Weights are multiples
of 1/64, exact in F16 and BF16. llama has shards in F32, qwen3 BF16, gemma3 F16 with tied embeddings.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

GOLDEN = Path(__file__).resolve().parent
FOLDER = GOLDEN / "convert"
TEXT = (GOLDEN / "text" / "opticks.txt").read_text("utf-8")
VOCAB, TOKENS = 320, 24
TEXTS = [
    "The light of the sun",
    " two  blanks and\n\n\tlines",
    "It's 12345 rays, aren't they?",
    "prismes à côté, 光と色 ☀",
    "<|end|>refraction<|end|>",
    "",
]
LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def randomize(model: PreTrainedModel, seed: int) -> None:
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = random.normal(0.0, 0.15, tuple(parameter.shape))
            if parameter.ndim == 1 and "gemma3" not in model.config.model_type and "bias" not in name:
                values += 1.0  # Gemma's norms multiply by 1 + weight
            parameter.copy_(torch.from_numpy(np.round(values * 64) / 64).to(torch.float32))


def byte_level(folder: Path, words: str, bos: str) -> Tokenizer:
    """A byte-level BPE of VOCAB tokens that cuts text like its family."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 4, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    tokenizer.add_tokens(["<think>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def pieces(folder: Path) -> Tokenizer:
    """A SentencePiece BPE with bytes, as tokenizer.model and as the tokenizer.json that Gemma has beside it."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=VOCAB - 2,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=0.99,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, eos_piece="<eos>", bos_piece="<bos>",
        minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    vocabulary = {model.id_to_piece(i): i for i in range(len(model))}
    merges = [
        (text[:cut], text[cut:], model.get_score(number))
        for text, number in vocabulary.items()
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary and not model.is_byte(number)
    ]
    merges.sort(key=lambda merge: (merge[2], vocabulary[merge[0]]), reverse=True)
    bpe = models.BPE(
        vocabulary, [merge[:2] for merge in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>", "<|end|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def words(folder: Path) -> Tokenizer:
    """A WordPiece vocabulary, as BERT has it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXT.splitlines(),
        trainers.WordPieceTrainer(vocab_size=VOCAB, special_tokens=special, show_progress=False),
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def record(
    folder: Path, model: PreTrainedModel, tokenizer: Tokenizer, dtype: torch.dtype, shard: str
) -> None:
    ids = np.random.default_rng(7).integers(4, 256, TOKENS)
    with torch.inference_mode():
        output = model(input_ids=torch.from_numpy(ids)[None])
        values = (output.logits if hasattr(output, "logits") else output.last_hidden_state)[0].numpy()
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    encoded = [tokenizer.encode(text).ids for text in TEXTS]
    np.savez_compressed(
        folder / "expected.npz",
        ids=ids.astype(np.int32),
        values=values,
        texts=np.array(TEXTS),
        tokens=np.array([number for row in encoded for number in row], dtype=np.int32),
        lengths=np.array([len(row) for row in encoded], dtype=np.int32),
    )
    print(folder.name, sum(path.stat().st_size for path in folder.iterdir()), "bytes")


def fresh(name: str) -> Path:
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    torch.manual_seed(1)
    common: dict[str, Any] = dict(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, attn_implementation="eager",
    )  # fmt: skip

    folder = fresh("llama")
    scaling = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
    llama = LlamaForCausalLM(
        LlamaConfig(
            **common, attention_bias=True, tie_word_embeddings=False, bos_token_id=316, eos_token_id=317,
            rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling},
        )
    ).eval()  # fmt: skip
    randomize(llama, 1)
    tokenizer = byte_level(folder, LLAMA_WORDS, "<|begin|>")
    write_json(
        folder / "tokenizer_config.json", {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}}
    )
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
    record(folder, llama, tokenizer, torch.float32, "60KB")

    folder = fresh("qwen3")
    qwen3 = Qwen3ForCausalLM(
        Qwen3Config(
            **common, tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
        )
    ).eval()  # fmt: skip
    randomize(qwen3, 2)
    tokenizer = byte_level(folder, LLAMA_WORDS.replace("{1,3}", ""), "")
    write_json(
        folder / "tokenizer_config.json",
        {
            "eos_token": "<|end|>",
            "add_bos_token": False,
            "chat_template": "{{ messages[0]['content'] }}<|end|>",
        },
    )
    qwen3.generation_config = GenerationConfig(eos_token_id=[317, 316])
    record(folder, qwen3, tokenizer, torch.bfloat16, "5GB")

    folder = fresh("gemma3")
    gemma3 = Gemma3ForCausalLM(
        Gemma3TextConfig(
            **common, query_pre_attn_scalar=16, sliding_window=8, pad_token_id=0, eos_token_id=1, bos_token_id=2,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        )
    ).eval()  # fmt: skip
    randomize(gemma3, 3)
    tokenizer = pieces(folder)
    record(folder, gemma3, tokenizer, torch.float16, "5GB")

    folder = fresh("bert")
    bert = BertModel(
        BertConfig(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64,
        )
    ).eval()  # fmt: skip
    randomize(bert, 4)
    tokenizer = words(folder)
    write_json(folder / "modules.json", [{"idx": 1, "path": "1_Pooling", "type": "models.Pooling"}])
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    record(folder, bert, tokenizer, torch.float32, "5GB")


if __name__ == "__main__":
    main()
