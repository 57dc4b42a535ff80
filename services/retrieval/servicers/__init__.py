"""The gRPC face of retrieval: one servicer per service of the contracts. They translate and decide nothing."""
