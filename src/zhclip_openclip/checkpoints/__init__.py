"""Finding checkpoints, recognising them, and loading them into open_clip models."""
