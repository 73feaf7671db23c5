"""Bad input: what it is, how it is given, what the one who gave it is told, and what becomes of it.

rows.py        the table                     TABLE.md     the same to read; `python -m tests.bad_input` writes it
given.py       how each kind of it is given: a command, a message, an answer over HTTP, a damaged file
"""
