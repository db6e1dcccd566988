"""The process in which Jinja templates run.

A template is a program that somebody else wrote, and Python cannot stop a thread; this process is stopped by its
own limits of memory and processor time, or killed by jinja_process. It reads requests from standard input and
writes answers to standard output, each as 4 bytes of length (little endian) and JSON:

    {"source": …, "describe": true}            → {"description": {…}} (jinja_sandbox.describe)
    {"source": …, "variables": [{…}, …]}       → {"texts": […]}, one for each
    anything that fails                         → {"error": "syntax" or "render", "message": …, "line": …}
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any, BinaryIO

import jinja2

from ollamapy.prompt.jinja_sandbox import RaisedError, compiled, describe, render

MEMORY = 512 << 20  # bytes of address space
SECONDS = 2.0  # of processor time for one request


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a request asks for."""
    source = request["source"]
    try:
        template = compiled(source)
    except MemoryError:
        raise
    except jinja2.TemplateSyntaxError as error:
        return {"error": "syntax", "message": str(error.message or error), "line": error.lineno}
    except RecursionError:
        return {"error": "syntax", "message": "it nests too deeply", "line": None}
    except Exception as error:  # folding constants can raise anything
        return {"error": "syntax", "message": f"{type(error).__name__}: {error}", "line": None}
    if request.get("describe"):
        return {"description": describe(template, source)}
    try:
        return {"texts": [render(template, variables) for variables in request["variables"]]}
    except MemoryError:
        raise
    except RaisedError as error:
        return {"error": "render", "message": str(error), "line": None}
    except RecursionError:
        return {"error": "render", "message": "it nests too deeply", "line": None}
    except Exception as error:  # whatever an expression of the template can raise
        return {"error": "render", "message": f"{type(error).__name__}: {error}"[:1000], "line": None}


def _read(source: BinaryIO) -> bytes | None:
    head = source.read(4)
    return source.read(int.from_bytes(head, "little")) if len(head) == 4 else None


def main() -> int:
    """Answers requests until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # it ends the process, whatever Python is doing
    while (data := _read(requests)) is not None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            body = json.dumps(answer(json.loads(data))).encode()
        except MemoryError:
            return 1
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(len(body).to_bytes(4, "little") + body)
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
