"""embeddings + market_state + policy_config -> decisions -> orders -> fills."""
