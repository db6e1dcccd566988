"""Figures on their way from a run to tables and plots."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plots, svg
from benchmarks.compare import CASES, chosen, measure
from benchmarks.peers import Peer, from_environment
from benchmarks.results import OURS, Results, ResultsError, merged, tables
from ollamapy.engine.bench import Case, streams_case

SVG = "{http://www.w3.org/2000/svg}"
PREFILL, LONG, DECODE = Case("prefill", 512), Case("prefill", 2048), Case("decode", 128)
DEEP, STREAMS = Case("decode", 128, 2048), streams_case(8)
PROGRAMS = ("LLAMA_BENCH", "LLAMA_BATCHED", "IK_LLAMA_BENCH", "IK_LLAMA_SWEEP", "IK_LLAMA_BATCHED")
ROOT = Path(__file__).parents[2]


def run_of(**changes: Any) -> dict[str, Any]:
    work = {
        name: {"rows": rows, "operations": rows * 2e8, "bytes": 1e8}
        for name, rows in (("prefill 512", 512), ("decode", 1), ("8 streams", 8), ("16 streams", 16))
    }
    return {
        "date": "2026-01-02 03:04 UTC",
        "command": "python -m benchmarks.compare",
        "cpu": "A <CPU> & more",
        "isa": "avx2",
        "threads": 2,
        "peers": {"peer": "1 (abc)", "other": None},
        "failures": [],
        "peaks": {"int8": 1e12, "f32": 1e11, "bandwidth": 4e10},
        "models": {"m": {"token_bytes": 1e8, "work": work}},
        **changes,
    }


@pytest.fixture
def results() -> Results:
    """Three rounds; the peer fails once, and the other peer is missing."""
    found = Results({"a": run_of(failures=["m: peer: decode 128 at depth 2048: no"])})
    for number, (ours, theirs) in enumerate([(100.0, 50.0), (90.0, 60.0), (120.0, 40.0)]):
        found.add("a", number, "m", OURS, PREFILL, ours)
        found.add("a", number, "m", "peer", PREFILL, theirs)
        found.add("a", number, "m", OURS, LONG, ours / 2)
        found.add("a", number, "m", OURS, DECODE, 10 + number)
        found.add("a", number, "m", OURS, DEEP, 5.0)
        found.add("a", number, "m", OURS, STREAMS, 30.0)
    return found


def test_a_run_is_kept_round_by_round(
    smollm2_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a llama-bench that knows prompts only, and without the others."""
    for name in PROGRAMS:
        monkeypatch.delenv(name, raising=False)
    program = tmp_path / "llama-bench"
    program.write_text(
        "#!/bin/sh\ncase \"$*\" in\n*'-p 0'*) echo 'cannot decode' >&2; exit 1;;\n"
        "*--version*) echo 'version: 9';;\n*) echo '[\n{\"avg_ts\": 12.5}]';;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("LLAMA_BENCH", str(program))
    results = Results()
    cases = [Case("prefill", 8), Case("decode", 2), Case("prefill", 9000)]
    rounds = measure(results, [smollm2_path], 1, 2, cases)
    next(rounds)
    results.write(tmp_path / "results.json")  # and is killed in the second round
    kept = Results.read(tmp_path / "results.json")
    (run,) = kept.runs.values()
    assert run["peers"] == {"llama.cpp": "9", "ik_llama.cpp": None}
    assert run["threads"] == 1 and min(run["peaks"].values()) > 1e6
    decoding, too_long = run["failures"]
    assert "llama.cpp: decode 2: " in decoding and "cannot decode" in decoding
    assert "ollamapy: prefill 9000: " in too_long and "the model has 8192" in too_long
    model = smollm2_path.stem
    assert len(kept.speeds(model, OURS, cases[0])) == len(kept.speeds(model, OURS, cases[1])) == 1
    assert list(kept.speeds(model, "llama.cpp", cases[0]).values()) == [12.5]
    text = tables(kept)
    assert "llama.cpp 9, ik_llama.cpp MISSING" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| decode 2 "))
    assert row.count("failed") == 2 and row.count("missing") == 2


def test_table(results: Results) -> None:
    text = tables(results)
    assert "A <CPU> & more, avx2, 2 threads" in text
    assert "peer 1 (abc), other MISSING" in text
    assert "FAILED: m: peer: decode 128 at depth 2048: no" in text
    assert "allows 400 to one stream" in text
    assert "| prefill 512 | 100 | 50 | missing | 2.00 (1.50, 3.00) | missing | 3 |" in text
    assert "| decode 128 | 11 | missing | missing | missing | missing | 3 |" in text
    assert "| decode 128 at depth 2048 | 5 | failed | missing | failed | missing | 3 |" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:] == [case.label for case in (PREFILL, LONG, DECODE, DEEP, STREAMS)]


def test_files_are_merged_and_no_figure_counts_twice(results: Results, tmp_path: Path) -> None:
    first, later, second = tmp_path / "first.json", tmp_path / "later.json", tmp_path / "second.json"
    results.write(first)
    results.add("a", 3, "m", OURS, PREFILL, 200.0)  # the same run, a round later
    results.add("a", 3, "m", "peer", PREFILL, 20.0)
    results.write(later)
    other = Results({"b": run_of(peers={"other": "2"}, peaks={"int8": 2e12, "f32": 1.0, "bandwidth": 1e10})})
    other.add("b", 0, "m", OURS, PREFILL, 70.0)
    other.add("b", 0, "m", "other", PREFILL, 35.0)
    other.write(second)
    found = merged([first, second, later])
    assert list(found.runs) == ["a", "b"]
    assert found.peers == ["peer", "other"]
    assert sorted(found.speeds("m", OURS, PREFILL).values()) == [70.0, 90.0, 100.0, 120.0, 200.0]
    # each ratio within its round: ours of run b has no partner among the peer's
    assert sorted(found.ratios("m", "peer", PREFILL)) == [1.5, 2.0, 3.0, 10.0]
    assert found.ratios("m", "other", PREFILL) == [2.0]
    assert (found.peak("int8"), found.peak("bandwidth")) == (2e12, 4e10)
    assert not list(tmp_path.glob("*.partial"))
    for content in (
        b"",
        b"[]",
        b'{"runs": {}, "samples": [{"run": "x"}]}',
        b'{"runs": {"a": 1}, "samples": []}',
        b"\xff",
    ):
        first.write_bytes(content)
        with pytest.raises(ResultsError):
            merged([first])


def test_tables_and_plots_are_made_again_from_a_file(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "results.json")

    def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.compare", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)

    folder = tmp_path / "figures"
    done = compare("--from", str(tmp_path / "results.json"), "--plots", str(folder))
    assert done.returncode == 0, done.stderr
    assert tables(results) in done.stdout
    names = ["depth.svg", "prefill.svg", "roofline.svg", "streams.svg"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for path in folder.iterdir():
        assert ElementTree.parse(path).getroot().tag == SVG + "svg"
    failed = compare("--from", str(tmp_path / "nothing.json"))
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert compare("--only", "nonsense").returncode == 2


def circles(text: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(text)
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(SVG + "circle")]


def test_points_lie_where_they_should() -> None:
    series = svg.Series("a <b> & 'c'", [svg.Point(10, 50, 40, 60), svg.Point(1000, 100)], "#000000")
    panel = svg.Panel("title", "x", "y", [series], x_log=True)
    x, y = panel.axes()
    # From 10 / 1.4 to 1000 * 1.4 in powers, from 0 to 8 % above the largest in plain numbers.
    width, height = svg.WIDTH - svg.RIGHT - svg.LEFT, svg.HEIGHT - svg.BOTTOM - svg.TOP
    middle = x.place(100)
    assert middle == pytest.approx(svg.LEFT + width / 2)
    assert x.place(10 / 1.4) == pytest.approx(svg.LEFT)
    assert y.place(0) == svg.HEIGHT - svg.BOTTOM
    assert y.place(54) == pytest.approx(svg.TOP + height / 2)
    (x1, y1), (x2, y2) = circles(svg.chart("<&>", [panel]))
    assert x1 - svg.LEFT == pytest.approx(svg.WIDTH - svg.RIGHT - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(height * 50 / 108, abs=0.2)
    assert all(y.low <= tick <= y.high for tick in y.ticks) and len(y.ticks) >= 3
    ElementTree.fromstring(svg.chart("empty", [svg.Panel("t", "x", "y", [svg.Series("n", [], "#000000")])]))


def test_roofline_places_a_decoding_step(results: Results) -> None:
    text = plots.roofline(results)
    assert text is not None
    # decode: 11 tokens/s of 2e8 operations and 1e8 bytes: 2.2 GOPS at 2 operations a byte
    hints = [title.text for title in ElementTree.fromstring(text).iter(SVG + "title")]
    assert f"{OURS}: 2, 2.2" in hints
    assert plots.by_depth(Results()) is None and plots.roofline(Results({"a": run_of()})) is None


def test_cases_are_chosen() -> None:
    assert chosen([], quick=True) == [PREFILL, DECODE, STREAMS]
    assert chosen(["depth", "prefill"], quick=False) == CASES["prefill"] + CASES["depth"]
    assert chosen(["depth"], quick=True) == [DEEP]


def test_a_peer_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in PROGRAMS:
        monkeypatch.delenv(name, raising=False)
    program = tmp_path / "batched"
    program.write_text("#!/bin/sh\necho warning\necho 'version: 7 (abcdef)' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("LLAMA_BATCHED", str(program))
    monkeypatch.setenv("LLAMA_BENCH", str(tmp_path / "nothing"))
    llama, ik = from_environment()
    assert llama.missing() == ["LLAMA_BENCH"]
    assert llama.version() == "7 (abcdef)"
    assert ik.missing() == ["IK_LLAMA_BENCH", "IK_LLAMA_BATCHED", "IK_LLAMA_SWEEP"]
    assert ik.version() is None
    assert ik.decode(tmp_path, 1, 8, 2048) is None and llama.prefill(tmp_path, 1, 8) is None
    assert Peer("x", None, str(tmp_path / "gone")).version() == "unknown"
