"""Helpers that depend on nothing but the standard library."""
