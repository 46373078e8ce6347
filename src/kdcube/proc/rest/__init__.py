"""Proc's own HTTP: probes now; integrations stand here too."""
