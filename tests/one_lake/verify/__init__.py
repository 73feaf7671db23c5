"""Verifying a lake."""
