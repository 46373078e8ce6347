"""Finds passages: words, the index as it is read, and the order of what is found."""
