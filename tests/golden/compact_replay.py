"""Shortens recorded requests and answers of a real Ollama to what tests/server/test_replay.py compares.

    python compact_replay.py CASES.json RECORDED.json

CASES holds requests as the program that recorded them has them, RECORDED the answers. Writes replay.json: requests,
and of each answer its status, media type, headers, error text, and the form of its body: keys, types, and the
few values that say something (done_reason, status, capabilities ...). Generated text is left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

GROUPS = ("meta", "cors", "tags", "show", "ps", "generate", "chat", "embed", "embeddings", "blobs", "copy", "delete",
          "create", "gguf")  # fmt: skip
LATER = ("create.namespaced_v1", "cors.preflight_v1", "gguf.quantize")  # of other dialects, and beyond
FREE = (
    "tensors",
    "model_info",
    "context",
    "embeddings",
    "embedding",
    "logprobs",
)  # too long, or the machine's
SENT = ("id", "method", "path", "body", "raw", "headers", "chunked", "file")
KEPT = ("prompt_eval_count", "done_reason", "done", "status", "capabilities", "role", "format", "family",
        "parent_model", "license")  # fmt: skip


def form(value: Any, key: str = "") -> Any:
    """Keys and types; lists by the form of their first item."""
    if key in FREE:
        return type(value).__name__
    if isinstance(value, dict):
        return {name: form(item, name) for name, item in sorted(value.items())}
    if key in KEPT and not isinstance(value, list):
        return f"={value}" if "sha256:" not in str(value) else "str"
    if isinstance(value, list):
        return [form(value[0], key)] if value else []
    return (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )


def answer(record: dict[str, Any]) -> dict[str, Any]:
    body = record["body"]
    short: dict[str, Any] = {"status": record["status"], "type": record["content_type"]}
    if record["headers"]:
        short["headers"] = record["headers"]
    if record["kind"] == "json":
        short["body"] = body if isinstance(body, dict) and "error" in body else form(body)
    elif record["kind"] == "ndjson":
        short["events"] = [form(event) for event in (body[0], body[-1])]
    elif record["kind"] == "text":
        short["text"] = body
    return short


def main() -> None:
    cases = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    recorded = json.loads(Path(sys.argv[2]).read_text("utf-8"))["cases"]
    rows = []
    for case in cases:
        if case["id"].split(".")[0] not in GROUPS or case["id"] in LATER:
            continue
        row = {key: case[key] for key in SENT if case.get(key) is not None}
        row["free"] = case.get("loose", []) + case.get("optional", []) or None
        if case["id"] in recorded and case.get("scored", True):
            row["answer"] = answer(recorded[case["id"]])
            if case.get("beyond"):
                row["beyond"] = True
            if case.get("free_wording") or case.get("ignore_body"):
                row["free_text"] = True
        rows.append({key: value for key, value in row.items() if value is not None})
    target = Path(__file__).resolve().parent / "replay.json"
    text = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    target.write_text(f"[\n{text}\n]\n", "utf-8")
    print(len(rows), "cases,", target.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
