"""Verdicts as JSON lines, and the table and the Markdown that are views of them."""
