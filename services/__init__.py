"""The gRPC services and the chassis that they share."""
