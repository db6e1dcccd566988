"""Commands that tell of a wrong call in one line, in the words that Ollama's users know."""

from __future__ import annotations

import itertools
from typing import Any

import click

_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


class BareOption(click.Option):
    """An option whose value, if it has one, stands behind a = only; without one it has the value `bare`."""

    def __init__(self, *arguments: Any, bare: str, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.bare = bare


class Command(click.Command):
    """A command that counts its words before anything looks at them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises UsageError for too few or too many words."""
        params = self.get_params(ctx)
        args = _plain_flags(args, [param for param in params if isinstance(param, click.Option)])
        arguments = [param for param in params if isinstance(param, click.Argument)]
        parser = click.Command(
            self.name, params=[p for p in params if p not in arguments], add_help_option=False
        ).make_parser(ctx)
        values, words, _ = parser.parse_args(list(args))
        least = sum(abs(param.nargs) for param in arguments if param.required)
        helps = self.get_help_option(ctx)
        if not (helps and values.get(str(helps.name))) and not ctx.resilient_parsing:
            if any(param.nargs < 0 for param in arguments):
                if len(words) < least:
                    text = f"requires at least {least} arg(s), only received {len(words)}"
                    raise click.UsageError(text, ctx)
            elif len(words) != least:
                raise click.UsageError(f"accepts {least} arg(s), received {len(words)}", ctx)
        return super().parse_args(ctx, args)


def _plain_flags(args: list[str], options: list[click.Option]) -> list[str]:
    """Arguments as click reads them: `--flag=true` sets a flag and `--flag=false` takes it back. Raises UsageError."""
    by_name = {name: option for option in options for name in option.opts}
    plain: list[str] = []
    rest = iter(args)
    for word in rest:
        if word == "--":
            return [*plain, word, *rest]
        name, equals, value = word.partition("=")
        option = by_name.get(name)
        if option is None or (equals and not option.is_flag):
            plain.append(word)
        elif isinstance(option, BareOption):
            plain.append(f"{name}={option.bare}")
        elif not option.is_flag:
            plain += [word, *itertools.islice(rest, 1)]
        elif not equals or value in _TRUE:
            plain.append(name)
        elif value in _FALSE:
            plain = [other for other in plain if other not in option.opts] + option.secondary_opts[:1]
        else:
            flag = ", ".join(sorted(option.opts, key=len))
            reason = f'strconv.ParseBool: parsing "{value}": invalid syntax'
            raise click.UsageError(f'invalid argument "{value}" for "{flag}" flag: {reason}')
    return plain


def usage_text(error: click.UsageError) -> str:
    """What is wrong with a call."""
    if isinstance(error, click.NoSuchOption):
        name = error.option_name
        if name.startswith("--"):
            return f"unknown flag: {name}"
        return f"unknown shorthand flag: '{name[-1]}' in {name}"
    if isinstance(error, click.BadOptionUsage):
        name = error.option_name
        return (
            f"flag needs an argument: {name}"
            if name.startswith("--")
            else f"flag needs an argument: '{name[-1]}' in {name}"
        )
    return error.format_message()
