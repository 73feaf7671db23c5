"""Tests of whether two answers are the same."""
