"""kdcube.yaml: the typed descriptor of a deployment, the only source that renderers read."""
