"""What needs several layers: the only package that may import them, and nobody imports it."""
