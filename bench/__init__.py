"""One script a claim, each side by side with a peer or a physical limit: python -m bench.<name>."""
