"""Tests of the policies on answers."""
