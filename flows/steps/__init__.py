"""One file a step of the cell: pure logic first, its operator last."""
