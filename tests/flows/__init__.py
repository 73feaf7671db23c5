"""Tests of the flows, and of what decides in them."""
