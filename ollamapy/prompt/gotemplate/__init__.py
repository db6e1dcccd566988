"""Go's text/template: a lexer, a parser and an executor for the whole language, over values typed as Go's.

The language is that of Go's package documentation, the functions are Go's and Ollama's. What a template sees
and how it is run over a conversation is in prompt/go_chat.
"""

from ollamapy.prompt.gotemplate.execute import execute
from ollamapy.prompt.gotemplate.nodes import Tree
from ollamapy.prompt.gotemplate.parse import parse

__all__ = ["Tree", "execute", "parse"]
