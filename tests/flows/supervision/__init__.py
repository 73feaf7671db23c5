"""Tests of the steps, pure logic first."""
