"""Proofs before profits: markets whose best policy is known, and what the training code makes of them."""
