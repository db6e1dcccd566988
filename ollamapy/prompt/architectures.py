"""Architectures whose models get a renderer and a parser when they are created and nobody names others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defaults:
    """What a Modelfile would say with RENDERER, PARSER and PARAMETER stop."""

    renderer: str
    parser: str
    stop: tuple[str, ...] = ()


_NEMOTRON = Defaults("nemotron-3-nano", "nemotron-3-nano")

BY_ARCHITECTURE = {
    "gemma4": Defaults("gemma4", "gemma4", ("<turn|>",)),
    "laguna": Defaults("laguna", "laguna"),
    "nemotron_h": _NEMOTRON,
    "nemotron_h_moe": _NEMOTRON,
    "nemotron_h_omni": _NEMOTRON,
}
"""by general.architecture, as Ollama has it"""
