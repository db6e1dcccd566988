"""The HTTP server: dialects over the internal request and delta."""
