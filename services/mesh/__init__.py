"""The chassis that every deployable shares: it knows gRPC, databases and telemetry, and no business noun."""
