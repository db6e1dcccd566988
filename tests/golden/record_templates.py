"""Ask Ollama's own template package what templates do, and keep its answers in templates/answers.json.

    python record_templates.py ORACLE

ORACLE is the program that `go build` makes of templates/oracle.go inside of a checkout of Ollama.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "templates"
CASES = json.loads((FOLDER / "cases.json").read_text("utf-8"))
VERBS = "vdsqxXtTcUbofegp"
FLAG_SETS = ("", "+", "-8", "08", "#", " ", ".2", "8.3", "+#", "-08")
OPERANDS = ("42", "-7", "1.5", '"aé"', "true", "nil", ".System", "(index .System 0)")

ADDRESSES = {
    f"{{{{ with .Messages }}}}{{{{ end }}}}{{{{ {value} }}}}" for value in (".", "$", "index .Messages")
}
"""what prints where things lie in memory"""


def asks() -> list[dict[str, Any]]:
    """Every question, with an id that is its place in the lists of cases.json."""
    found: list[dict[str, Any]] = []

    def ask(id: str, template: str, **more: Any) -> None:
        data = {
            "Messages": CASES["conversation"],
            "Tools": CASES["tools"],
            "Think": True,
            "Level": "low",
            "Set": True,
        }
        found.append({"id": id, "Template": template, **(more or data)})

    reads = "{{ with .Messages }}{{ end }}"  # makes it a template of today's form
    for group in ("text", "blocks", "values"):
        for i, template in enumerate(CASES[group]):
            ask(f"{group}.{i}", template + reads if group != "values" else template)
    for i, constant in enumerate(CASES["constants"]):
        ask(f"constants.{i}", f"{{{{ {constant} }}}}{reads}")
        ask(f"constants.type.{i}", f'{{{{ printf "%T %v" {constant} {constant} }}}}{reads}')
    for i, expression in enumerate(CASES["expressions"]):
        ask(f"expressions.{i}", f"{reads}{{{{ {expression} }}}}")
    for flags, operand in itertools.product(FLAG_SETS, OPERANDS):
        form = "|".join(f"%{flags}{verb}" for verb in VERBS if not (verb == "p" and operand == "nil"))
        arguments = " ".join(operand for verb in VERBS if not (verb == "p" and operand == "nil"))
        ask(f"verbs.{flags}.{operand}", f'{reads}{{{{ printf "{form}" {arguments} }}}}')
    for i, template in enumerate(CASES["legacy"]):
        ask(f"legacy.{i}", template, Messages=CASES["exchanges"], Think=False, Level="", Set=False)
        ask(
            f"legacy.one.{i}",
            template,
            Messages=[{"role": "user", "content": "Q"}],
            Think=True,
            Level="high",
            Set=True,
        )
        ask(f"insert.{i}", template + "{{ .Suffix }}", Prompt="P", Suffix="X")
    return [question for question in found if question["Template"] not in ADDRESSES]


def main() -> int:
    questions = asks()
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    out = subprocess.run([sys.argv[1]], input=lines, capture_output=True, text=True, check=True).stdout
    answers = {ask["id"]: json.loads(line) for ask, line in zip(questions, out.splitlines(), strict=True)}
    rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in answers.items())
    (FOLDER / "answers.json").write_text("{\n" + rows + "\n}\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
