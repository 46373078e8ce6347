"""Runs what was rendered for compose: writes its files, makes its secrets, starts, watches and stops it."""
