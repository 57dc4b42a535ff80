"""HTTP derived from the contracts: routes, JSON, event streams and the OpenAPI text. Knows no method by name."""
