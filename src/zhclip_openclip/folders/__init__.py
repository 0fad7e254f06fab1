"""Somebody's own folder of pictures: its features, kept and brought up to date; searched, sorted by labels, shown."""
