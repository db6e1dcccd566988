"""Every recorded text is read as Ollama reads it, or with less loss; and however it is cut, the same."""

from __future__ import annotations

from typing import Any

import pytest

from tests.prompt.parsers.recorded import CASES, parser_of, read, text_of

NAMES = [f"{i}-{case['id']}" for i, case in enumerate(CASES)]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_recorded(case: dict[str, Any]) -> None:
    parser = parser_of(case)
    assert read(parser, text_of(case, parser)) in case["expect"]
