"""Retrieval metrics: one metric a file; plumbing that several of them share wears an underscore."""
