"""KDCube serves agents and chat applications: ingress, proc and metrics over Valkey and PostgreSQL."""

__version__ = "0.1.0"
