"""The sweep: every model type of the installed transformers, each row of a mixed batch against the row alone."""
