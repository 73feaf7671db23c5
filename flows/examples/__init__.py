"""Examples to run, to read and to begin from: README.md tells which there are."""
