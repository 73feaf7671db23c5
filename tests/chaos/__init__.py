"""Processes are killed, stopped and robbed of their state; afterwards an audit counts."""
