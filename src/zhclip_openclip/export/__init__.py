"""Writing models for other programs: one file a format."""
