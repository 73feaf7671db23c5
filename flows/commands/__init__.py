"""The commands of `aureon`, one file each; `flows.cli` imports the one that was asked for."""
