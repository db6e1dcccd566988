"""`ollamapy bench` on real models."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from ollamapy.cli import main
from ollamapy.store.store import Store
from tests.server.harness import add_gguf

SHORT = ("-p", "40", "-n", "3", "-d", "0,33", "-s", "2", "-r", "2", "-t", "1")
CASES = [
    "prefill 40",
    "decode 3",
    "decode 3 at depth 33",
    "decode 64, 2 streams",
    "time to first token, with loading",
]


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors."""
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    return Store(tmp_path / "models")


def test_table_of_a_model_in_the_store(
    capsys: pytest.CaptureFixture[str], store: Store, smollm2_path: Path
) -> None:
    add_gguf(store, smollm2_path, "smollm2:135m")
    status, out, err = bench(capsys, "smollm2:135m", *SHORT)
    assert (status, err) == (0, "")
    title, empty, header, *rows = out.splitlines()
    assert title.startswith("smollm2:135m, 1 threads, ") and title.endswith(", 2 rounds")
    assert not empty
    assert header.split() == ["TEST", "MEDIAN", "LEAST", "MOST", "UNIT"]
    for name, row in zip(CASES, rows, strict=True):
        median, least, most, unit = row.removeprefix(name).split()
        assert 0 < float(least) <= float(median) <= float(most)
        assert unit == ("ms" if name.startswith("time") else "tokens/s")


def test_json_and_csv_of_a_file(capsys: pytest.CaptureFixture[str], store: Store, smollm2_path: Path) -> None:
    status, out, _ = bench(capsys, str(smollm2_path), *SHORT, "--format", "json")
    found = json.loads(out)
    assert status == 0
    assert (found["model"], found["threads"], found["rounds"]) == (str(smollm2_path), 1, 2)
    assert [result["test"] for result in found["results"]] == CASES
    for result in found["results"]:
        assert len(result["values"]) == 2
        assert (result["least"], result["most"]) == (min(result["values"]), max(result["values"]))
        assert result["median"] == pytest.approx(sum(result["values"]) / 2)

    few = ("-p", "", "-n", "2", "-s", "", "-r", "1", "-t", "2")
    status, out, _ = bench(capsys, str(smollm2_path), *few, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert [row["test"] for row in rows] == ["decode 2", CASES[-1]]
    assert rows[0]["threads"] == "2"
    assert float(rows[0]["median"]) == float(rows[0]["least"]) > 0


def test_profile(capsys: pytest.CaptureFixture[str], store: Store, smollm2_path: Path) -> None:
    few = ("--profile", "-p", "64", "-s", "4", "-t", "1")
    status, out, _ = bench(capsys, str(smollm2_path), *few, "--format", "json")
    found = json.loads(out)
    assert status == 0
    assert all(found["peaks"][name] > 1e6 for name in ("int8", "f32", "bandwidth"))
    steps = {(line["rows"], line["streams"]) for line in found["operations"]}
    assert steps == {(1, 1), (1, 4), (64, 1)}
    for step in steps:
        lines = {
            line["operation"]: line for line in found["operations"] if (line["rows"], line["streams"]) == step
        }
        assert sum(line["share"] for line in lines.values()) == pytest.approx(1)
        assert lines["matmul ffn_gate:Q4_1+ffn_up:Q4_1"]["peak_share"] > 0
        assert lines["attention"]["peak_share"] is None
    status, out, _ = bench(capsys, str(smollm2_path), *few)
    assert status == 0
    for text in (
        "peaks measured: int8 ",
        "decode, 4 streams: ",
        "prefill of 64 tokens: ",
        "matmul ffn_gate:Q4_1",
    ):
        assert text in out


def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str],
    store: Store,
    smollm2_path: Path,
    minilm_gguf_path: Path,
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and no more")
    model = str(smollm2_path)
    for arguments, message in {
        ("nobody",): f"model 'nobody' not found in {store.root}: `ollamapy pull` fetches it",
        ("no/file.gguf",): "there is no file no/file.gguf",
        ("a b",): "invalid model name",
        (str(broken),): "GGUF",
        (str(minilm_gguf_path),): "only embeds",
        (model, "-p", "9000"): "prefill 9000 needs 9000 tokens of context, the model has 8192",
        (model, "-n", "100", "-d", "8100"): "decode 100 at depth 8100 needs 8200 tokens of context",
        (model, "--profile", "-p", "9000"): "prefill 9000 needs 9000 tokens",
        (model, "-p", "512,many"): "--prefill: 'many' is not a whole number from 1 to 1048576",
        (model, "-p", "0"): "--prefill: '0' is not",
        (model, "-s", "8,,16"): "--streams: '' is not",
        (model, "-d", "-1"): "--depth: '-1' is not",
    }.items():
        status, out, err = bench(capsys, *arguments)
        assert status == 1, arguments
        assert out == ""
        assert err.count("\n") == 1 and err.startswith("Error: "), err
        assert message in err
    status, out, err = bench(capsys, model, "--format", "xml")
    assert status == 1 and out == "" and "'xml' is not one of" in err
