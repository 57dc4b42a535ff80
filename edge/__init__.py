"""The edge: HTTP in, gRPC out. No database, no provider library, no business rule."""
