"""OpenAPI documents: what services have in common in theirs."""
