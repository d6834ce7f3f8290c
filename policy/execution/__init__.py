"""From allowed weights to orders, and from orders to what the venue said."""
