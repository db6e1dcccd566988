"""Registries: pull and push by the Docker distribution protocol, as Ollama speaks it."""
