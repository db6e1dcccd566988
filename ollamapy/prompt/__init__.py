"""From messages to the text a model reads: the file's Jinja template or a Go template of the store."""
