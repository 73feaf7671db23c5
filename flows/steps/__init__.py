"""One file a step of the cell; `flows.refine` puts them together."""
