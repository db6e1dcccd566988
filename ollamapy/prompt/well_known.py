"""Chat templates of well-known models: the Jinja they publish, and the same as a Go TEMPLATE with its stop
texts.

A model whose Jinja is nearly one of these gets the TEMPLATE and the parameters when it is imported, so that
it can be shown, edited and used as a base like any other model's. well_known.json holds them: the published
forms, by which a template is recognized, and a TEMPLATE of our own that writes what they write, but for a
beginning of sequence, which the tokenizer adds, and a system text that a form has of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_MOST_DISTANCE = 100  # edits: variants differ in a default system text or a blank, not in their form


@dataclass(frozen=True)
class WellKnown:
    name: str
    jinja: tuple[str, ...]  # its published forms
    template: str
    stop: tuple[str, ...]


@lru_cache(maxsize=1)
def well_known() -> tuple[WellKnown, ...]:
    """All of them."""
    entries = json.loads(Path(__file__).with_name("well_known.json").read_text("utf-8"))
    return tuple(WellKnown(e["name"], tuple(e["jinja"]), e["template"], tuple(e["stop"])) for e in entries)


def edit_distance(a: str, b: str, limit: int) -> int:
    """Levenshtein's distance, or limit when it is not below."""
    here, there = Counter(a), Counter(b)
    if max((here - there).total(), (there - here).total()) >= limit:  # letters that one lacks are edits
        return limit
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[same:], b[same:]
    ends = zip(reversed(a), reversed(b), strict=False)
    same = next((i for i, (x, y) in enumerate(ends) if x != y), min(len(a), len(b)))
    a, b = a[: len(a) - same], b[: len(b) - same]
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        start, end = max(1, i - limit), min(len(b), i + limit)  # cells outside cannot be below the limit
        if start > 1:
            previous, row[start - 1] = row[start - 1], limit
        for j in range(start, end + 1):
            above = row[j] if j < i + limit else limit
            row[j], previous = min(above + 1, row[j - 1] + 1, previous + (x != b[j - 1])), row[j]
        if min(row[start - 1 : end + 1]) >= limit:
            return limit
    return min(row[len(b)], limit)


def recognize(jinja: str) -> WellKnown | None:
    """The well-known template that a Jinja nearly is: the nearest, of equals the first."""
    text = jinja.replace("\r\n", "\n").strip()
    best: WellKnown | None = None
    least = _MOST_DISTANCE
    for known in well_known():
        for form in known.jinja:
            distance = edit_distance(text, form, least)
            if distance < least:
                best, least = known, distance
    return best
