"""A simulation of the lanes: in-memory logs, seeded schedules of crashes, zombies and lost folders."""
