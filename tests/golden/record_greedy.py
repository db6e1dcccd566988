"""Records llama.cpp's greedy continuations (64 tokens, end of text ignored) of 24 prompts of 5 to 800 tokens.

ORACLE_LLAMA=... python record_greedy.py smollm2 model.gguf [--chat]

Writes greedy-NAME.npz: prompt_ids (all prompts in a row), prompt_lengths (24), kinds (24: text, code, chat),
top_ids and top_logprobs (24, 64, 2): the two best tokens of each step. The text is top_ids[:, :, 0].
Code prompts come from the files of this folder, so re-recording after a change of them makes other prompts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import oracle

LENGTHS = [5, 7, 9, 12, 16, 20, 26, 33, 42, 54, 68, 86]
LENGTHS += [110, 140, 178, 226, 280, 340, 400, 470, 550, 630, 710, 800]
STEPS = 64
CHAT_HEAD, CHAT_TAIL = b"<|im_start|>user\n", b"<|im_end|>\n<|im_start|>assistant\n"
CODE_FILES = ("oracle_llama.cpp", "oracle.py", "record_kl.py")
CODE = b"".join((oracle.GOLDEN / name).read_bytes() for name in CODE_FILES)
QUESTIONS = [
    b"Why is the sky blue, and why does it turn red in the evening?",
    b"Write a short poem about a prism on a window sill.",
    b"Give me three tips for learning to play the piano.",
    b"Explain to a child what a rainbow is.",
    b"Summarize the following text in one sentence:\n\n",
    b"List the main points of this passage:\n\n",
    b"Translate the following into modern English:\n\n",
    b"What is the author's argument here?\n\n",
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("model", type=Path)
    parser.add_argument("--chat", action="store_true", help="every third prompt is a ChatML conversation")
    args = parser.parse_args()

    def ids_of(text: bytes, special: bool = False) -> list[int]:
        return oracle.tokenize(args.model, text, add_special=special, parse_special=special)

    bos, head, tail = ids_of(b"", True), ids_of(CHAT_HEAD, True), ids_of(CHAT_TAIL, True)
    text = oracle.TEXT.read_bytes()
    prompts, kinds = [], []
    for i, length in enumerate(LENGTHS):
        kind = "code" if i % 3 == 2 else "chat" if args.chat and i % 3 == 1 and length > 20 else "text"
        source = CODE[i * 300 :] if kind == "code" else text[text.index(b"\n\n", 3300 * i) + 2 :]
        if kind == "chat":
            body = ids_of(QUESTIONS[(i // 3) % len(QUESTIONS)] + source)
            prompt = head + body[: length - len(head) - len(tail)] + tail
        else:
            prompt = (bos + ids_of(source))[:length]
        assert len(prompt) == length
        prompts.append(prompt)
        kinds.append(kind)

    top_ids, top_logprobs = oracle.greedy(args.model, prompts, STEPS)
    out = oracle.GOLDEN / f"greedy-{args.name}.npz"
    np.savez_compressed(
        out,
        prompt_ids=np.concatenate([np.array(ids, np.int32) for ids in prompts]),
        prompt_lengths=np.array(LENGTHS, np.int32),
        kinds=np.array(kinds),
        top_ids=top_ids,
        top_logprobs=top_logprobs,
    )
    lead = top_logprobs[:, :, 0] - top_logprobs[:, :, 1]
    print(out.stat().st_size, "bytes; lead over 1 nat at", float((lead > 1).mean()), "of the positions")


if __name__ == "__main__":
    main()
