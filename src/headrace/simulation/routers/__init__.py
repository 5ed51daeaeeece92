"""Routers, one a file, and their registry."""
