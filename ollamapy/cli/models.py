"""Commands about the models of the store."""

from __future__ import annotations

import click

from ollamapy.cli.connection import ensure_server, new_client, run_command
from ollamapy.cli.output import ago, human_bytes, print_table


@click.command(name="list", short_help="List the models of the store")
@click.argument("prefix", default="")
def list_command(prefix: str) -> None:
    """List the models of the store, those whose name begins with PREFIX."""

    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            models = (await client.call("GET", "/api/tags"))["models"]
        rows = [
            (m["name"], m["digest"][:12], human_bytes(m["size"]), ago(m["modified_at"]))
            for m in models
            if m["name"].lower().startswith(prefix.lower())
        ]
        print_table(("NAME", "ID", "SIZE", "MODIFIED"), rows)

    run_command(work())
