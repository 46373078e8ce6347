"""Everything that lives in Valkey: one file per structure, its scripts beside it in ``lua/``."""
