"""Pure functions from facts to the text of a configuration."""
