"""Answers from what was found, with a language model or without one."""
