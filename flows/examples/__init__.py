"""Examples: each is one file to run, to read and to begin from; `python -m flows.examples.NAME --help`.

verified_dataset    a dataset in which a verifier accepted every answer
daily_cascade       cheap models first, dear ones where those differ, within a daily budget
nightly_review      yesterday's records by a stricter policy, and what would fall asked again

Without --nodes they ask the solvers that come with Aureon, without AUREON_BROKERS on the embedded broker: that takes no
key, no Kafka, and less than a minute.
"""
