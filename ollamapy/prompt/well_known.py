"""Chat templates of well-known models: the Jinja they publish, and the same as a Go TEMPLATE with its stop
texts.

A model whose Jinja is nearly one of these gets the TEMPLATE and the parameters when it is imported, so that
it can be shown, edited and used as a base like any other model's.
"""

from __future__ import annotations

from dataclasses import dataclass

_MOST_DISTANCE = 100  # edits: variants differ in a default system text or a blank, not in their form


@dataclass(frozen=True)
class WellKnown:
    name: str
    jinja: tuple[str, ...]  # its published forms
    template: str
    stop: tuple[str, ...]


_CHATML = WellKnown(
    name="chatml",
    jinja=(
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful AI assistant<|im_end|>\\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    template=(
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
        "<|im_start|>assistant\n"
    ),
    stop=("<|im_start|>", "<|im_end|>"),
)
WELL_KNOWN = (_CHATML,)


def edit_distance(a: str, b: str, limit: int) -> int:
    """Levenshtein's distance, or limit when it is not below."""
    if abs(len(a) - len(b)) >= limit:
        return limit
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
    """The well-known template that a Jinja nearly is: the nearest."""
    text = jinja.replace("\r\n", "\n").strip()
    found = [
        (edit_distance(text, form, _MOST_DISTANCE), i)
        for i, known in enumerate(WELL_KNOWN)
        for form in known.jinja
    ]
    distance, index = min(found)
    return WELL_KNOWN[index] if distance < _MOST_DISTANCE else None
