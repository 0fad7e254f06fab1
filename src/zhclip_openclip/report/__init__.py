"""Judging results: own and published figures read, compared, and shown as a table or a page."""
