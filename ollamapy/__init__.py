"""OllamaPy: a drop-in Ollama server in Python on a native engine of its own."""

__version__ = "0.1.0"
