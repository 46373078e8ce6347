"""Which files are read as what."""

MARKDOWN = frozenset({".md", ".markdown", ".mdown"})
HTML = frozenset({".html", ".htm", ".xhtml"})
TEXT = frozenset({".txt", ".text", ".rst"})
PDF = frozenset({".pdf"})

SUFFIXES = MARKDOWN | HTML | TEXT | PDF
"""In lower case."""
