"""`ollamapy serve`."""

from __future__ import annotations

import logging

import click

from ollamapy.cli.command import Command

_HELP = """Start the server and run until it is stopped.

\b
Settings are environment variables:
  OLLAMA_HOST               address to listen on: host, :port, [v6]:port  (127.0.0.1:11434)
  OLLAMA_MODELS             the models' folder  (~/.ollama/models)
  OLLAMA_KEEP_ALIVE         how long a model stays loaded after its last use: 5m, 300, -1 for ever  (5m)
  OLLAMA_CONTEXT_LENGTH     tokens of context where a request does not say num_ctx  (4096)
  OLLAMA_MAX_LOADED_MODELS  models in memory at a time  (3)
  OLLAMA_NUM_PARALLEL       most requests of a model that run at once  (as many as there is room for, up to 64)
  OLLAMA_MAX_QUEUE          requests that may wait before others get a 503  (512)
  OLLAMA_LOAD_TIMEOUT       how long loading a model may stand still  (5m)
  OLLAMA_KV_CACHE_TYPE      what KV pages hold: f16, q8_0 or q4_0  (f16)
  OLLAMA_ORIGINS            further web origins that may ask, separated by commas; * is a wildcard
  OLLAMA_NOPRUNE            1: keep blobs that no model uses when starting
  OLLAMA_DEBUG              1: log more, 2: every step too, -1: warnings only, -2: errors only
  OLLAMAPY_API_KEYS         keys that requests must bring, separated by commas, or the path of a file with one
                            key, or sha256: and its digest, a line  (nobody is asked for one)
  OLLAMAPY_LOG_FORMAT       logfmt or json: how a line of the log is written  (logfmt)
  OLLAMAPY_KV_MEMORY        bytes of KV pages of each model  (half of what is free when it is loaded)
  OLLAMAPY_PREFIX_CACHE     0: requests do not share the KV pages of equal beginnings
  OLLAMAPY_THREADS          threads of the engine  (all CPUs this process may use)
"""


@click.command(cls=Command, help=_HELP)
def serve() -> None:
    import uvloop

    from ollamapy.server.app import serve as run_server
    from ollamapy.server.keys import KeysError
    from ollamapy.server.logs import configure
    from ollamapy.server.settings import Settings

    configure(logging.INFO, "logfmt")
    try:
        settings = Settings.from_environment()
    except KeysError as error:
        raise click.ClickException(str(error)) from None
    configure(settings.log_level, settings.log_format)

    def ready() -> None:
        click.echo(f"Listening on {settings.address.text}, models in {settings.models}", err=True)

    try:
        uvloop.run(run_server(settings, ready))
    except OSError as error:
        raise click.ClickException(str(error)) from None
