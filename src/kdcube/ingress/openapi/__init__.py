"""The OpenAPI document of ingress: one file per area, each with its schemas and its paths."""
