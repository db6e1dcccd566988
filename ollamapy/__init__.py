"""OllamaPy: a drop-in Ollama server in Python on a native engine of its own."""

__version__ = "0.1.0"
API_VERSION = "0.99.0"  # the Ollama whose API this is: some clients refuse to talk to an older one
