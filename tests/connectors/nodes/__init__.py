"""Tests of the nodes: real prompts, real processes."""
