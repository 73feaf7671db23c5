"""Tests of the lake, on real Delta tables, real Parquet and real DuckDB."""
