"""Engines run an exported generator; each library is imported in its own file only."""
