"""Tests of what connects to other systems."""
