"""Benchmarks: figures, not tests. `make bench` runs the first one, `python -m tests.bench.NAME` each of the others.

(none)         rounds a second of a whole cell, and how long one task takes
steps          what each step costs a round, in processor time: no broker, no lake, half a minute
http           model calls over real HTTP
cascade        what a cascade saves on recorded answers; cascade_http: through a whole cell
cells          three cells beside one
scale          what a backlog costs in memory, and finished work at a start
lake           a lake of millions of rows: to ask it, to verify it
replay         to decide 100,000 rounds again
transactions   what Kafka's transactions would bring
raw            the limit: through Kafka and back, with nothing decided
"""
