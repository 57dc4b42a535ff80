"""Conversations: the immutable message tree, and turns that end whatever dies."""
