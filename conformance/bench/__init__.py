"""What a mixed batch costs: ratios measured side by side in one process. Importing this imports no torch."""
