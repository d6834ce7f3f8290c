"""The database → market_state, policy_config: which regime holds, and how the policy is to steer in it."""
