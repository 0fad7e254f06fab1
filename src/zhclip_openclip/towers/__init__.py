"""Text towers: the encoder that stands in for open_clip's HFTextEncoder, and its projection heads."""
