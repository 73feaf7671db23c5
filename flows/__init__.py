"""The dataflows, and what decides in them."""
