"""A tiny random model, and inputs for it, of every model type that the installed transformers registers."""
