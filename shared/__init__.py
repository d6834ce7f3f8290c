"""The vocabulary and the doors that every layer uses. Imports no layer."""
