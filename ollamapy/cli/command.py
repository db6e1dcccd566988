"""Commands that tell of a wrong call in one line, in the words that Ollama's users know."""

from __future__ import annotations

import click


class Command(click.Command):
    """A command that counts its words before anything looks at them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises UsageError for too few or too many words."""
        params = self.get_params(ctx)
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
