"""The crash harness: real processes, real SIGKILLs, and what must be true afterwards."""
