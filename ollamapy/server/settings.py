"""Settings from the environment, under Ollama's names."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ollamapy.server.duration import DurationError, keep_alive
from ollamapy.server.keys import read_keys
from ollamapy.server.logs import FORMATS, log_level

DEFAULT_PORT = 11434
MOST_PARALLEL = 64  # requests of a model that run at once where nothing is said
KV_TYPES = ("f16", "q8_0", "q4_0")
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")
_APP_ORIGINS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
DEFAULT_ORIGINS = (
    *(
        f"{scheme}://{host}{port}"
        for host in _LOCAL_HOSTS
        for scheme in ("http", "https")
        for port in ("", ":*")
    ),
    *_APP_ORIGINS,
)
_SCHEME_PORTS = {"http": 80, "https": 443}

_log = logging.getLogger("ollamapy")


@dataclass(frozen=True)
class Address:
    """Where a server listens, as OLLAMA_HOST writes it."""

    scheme: str
    host: str  # without brackets
    port: int
    path: str = ""

    @property
    def host_in_url(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def url(self) -> str:
        """What a client connects to: the unspecified address stands for this machine."""
        local = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
        return f"{self.scheme}://{local.get(self.host, self.host_in_url)}:{self.port}{self.path}"

    @property
    def text(self) -> str:
        return f"{self.host_in_url}:{self.port}"

    @property
    def is_this_machine(self) -> bool:
        return self.host in ("", "localhost", "0.0.0.0", "::", "::1") or self.host.startswith("127.")


def parse_host(text: str) -> Address:
    """Read OLLAMA_HOST: host, host:port, :port, [v6]:port, each with or without a scheme.

    A port that is no port falls back to the default with a warning, as Ollama does.
    """
    text = text.strip().strip("\"'")
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "http", text
    default = _SCHEME_PORTS.get(scheme, DEFAULT_PORT) if found else DEFAULT_PORT
    authority, slash, path = rest.partition("/")
    if authority.startswith("["):
        host, _, tail = authority[1:].partition("]")
        port_text = tail.removeprefix(":")
    elif authority.count(":") > 1:  # a bare IPv6 address
        host, port_text = authority, ""
    else:
        host, _, port_text = authority.partition(":")
    port = default
    if port_text:
        if port_text.isdecimal() and int(port_text) < 65536:
            port = int(port_text)
        else:
            _log.warning("OLLAMA_HOST: invalid port %r, using %d", port_text, default)
    return Address(scheme, host or "127.0.0.1", port, (slash + path).rstrip("/"))


@dataclass(frozen=True)
class Settings:
    """What the server needs to know before it starts."""

    address: Address = field(default_factory=lambda: parse_host(""))
    models: Path = field(default_factory=lambda: Path.home() / ".ollama" / "models")
    key_folder: Path = field(default_factory=lambda: Path.home() / ".ollama")  # of the key for registries
    origins: tuple[str, ...] = DEFAULT_ORIGINS
    keep_alive: float = 300.0  # seconds
    context_length: int = 4096
    max_loaded_models: int = 3
    max_queue: int = 512  # requests that wait
    kv_memory: int = 0  # bytes of KV pages of each model; 0: half of what is free when it is loaded
    prefix_cache: bool = True  # whether requests share the KV pages of equal beginnings
    num_parallel: int = 0  # requests of a model that run at once; 0: as many as there is room for
    load_timeout: float = 300.0  # seconds
    prune: bool = True
    threads: int = 0  # of the engine; 0: all CPUs we may use
    kv_type: str = "f16"  # what KV pages hold
    log_level: int = logging.INFO
    log_format: str = "logfmt"  # or json
    api_keys: frozenset[bytes] = frozenset()  # digests; empty: nobody is asked for one

    @property
    def parallel(self) -> int:
        """Most requests of a model that run at once."""
        return self.num_parallel or MOST_PARALLEL

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read OLLAMA_* and OLLAMAPY_* variables; one that cannot be read is named in the log and ignored.

        Raises KeysError for keys that cannot be read: to go on without them would open the server.
        """
        env = os.environ if environment is None else environment
        default = cls()

        def text(name: str) -> str:
            return env.get(name, "").strip().strip("\"'")

        def number(name: str, fallback: int, zero: bool = False) -> int:
            value = text(name)
            if not value:
                return fallback
            if value.isdecimal():
                return int(value) if zero else int(value) or fallback
            _log.warning("%s=%r is not a number, using %d", name, value, fallback)
            return fallback

        def seconds(name: str, fallback: float) -> float:
            value = text(name)
            if not value:
                return fallback
            try:
                found = keep_alive(float(value) if _is_number(value) else value)
            except DurationError:
                _log.warning("%s=%r is not a duration, using %gs", name, value, fallback)
                return fallback
            return fallback if found is None else found

        origins = [origin.strip() for origin in text("OLLAMA_ORIGINS").split(",") if origin.strip()]
        # OLLAMA_FLASH_ATTENTION is taken as it comes: attention is of that kind for every KV type.
        kv_type = text("OLLAMA_KV_CACHE_TYPE").lower() or default.kv_type
        if kv_type not in KV_TYPES:
            _log.warning("OLLAMA_KV_CACHE_TYPE=%s is not one of %s, using f16", kv_type, ", ".join(KV_TYPES))
            kv_type = default.kv_type
        log_format = text("OLLAMAPY_LOG_FORMAT").lower() or default.log_format
        if log_format not in FORMATS:
            _log.warning("OLLAMAPY_LOG_FORMAT=%s is not one of %s", log_format, ", ".join(FORMATS))
            log_format = default.log_format
        return cls(
            address=parse_host(text("OLLAMA_HOST")),
            models=Path(text("OLLAMA_MODELS")).expanduser() if text("OLLAMA_MODELS") else default.models,
            origins=(*origins, *DEFAULT_ORIGINS),
            keep_alive=seconds("OLLAMA_KEEP_ALIVE", default.keep_alive),
            context_length=number("OLLAMA_CONTEXT_LENGTH", default.context_length),
            max_loaded_models=number("OLLAMA_MAX_LOADED_MODELS", default.max_loaded_models),
            max_queue=number("OLLAMA_MAX_QUEUE", default.max_queue, zero=True),
            load_timeout=seconds("OLLAMA_LOAD_TIMEOUT", default.load_timeout) or float("inf"),
            prune=text("OLLAMA_NOPRUNE").lower() in ("", "0", "false"),
            threads=number("OLLAMAPY_THREADS", 0),
            num_parallel=number("OLLAMA_NUM_PARALLEL", default.num_parallel),
            kv_memory=number("OLLAMAPY_KV_MEMORY", default.kv_memory),
            prefix_cache=text("OLLAMAPY_PREFIX_CACHE").lower() not in ("0", "false", "off"),
            kv_type=kv_type,
            api_keys=read_keys(text("OLLAMAPY_API_KEYS")),
            log_level=log_level(text("OLLAMA_DEBUG")),
            log_format=log_format,
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
