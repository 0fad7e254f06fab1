"""Datasets: one file per dataset or layout; plumbing that several of them share wears an underscore."""
