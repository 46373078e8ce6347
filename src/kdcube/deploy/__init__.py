"""A deployment as typed facts, and pure functions that render it for the programs that run it."""
