"""Whatever comes from outside, put to its decoder; what was found stays in `corpus`, and each test run tries it again.

python -m tests.fuzz task --seconds 300      what covers more of the decoders, or breaks one, goes to the corpus
"""
