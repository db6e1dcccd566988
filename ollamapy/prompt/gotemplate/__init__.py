"""Go's text/template, as far as stored chat templates use it: a lexer, a parser and an executor.

The language is that of Go's package documentation: pipelines, if / else if / else, range with break and
continue, with, variables, define / template / block, parentheses, trim markers, comments and the comparison
functions.
"""

from ollamapy.prompt.gotemplate.execute import Record, execute
from ollamapy.prompt.gotemplate.parse import Tree, parse

__all__ = ["Record", "Tree", "execute", "parse"]
