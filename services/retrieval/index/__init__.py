"""The index of a knowledge base: exact dense search by FAISS, BM25 beside it, in immutable snapshots."""
