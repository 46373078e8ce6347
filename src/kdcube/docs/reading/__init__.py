"""Files into documents: their title, and their text by headings, as Markdown."""
