"""Replays: what was decided is decided again, asked again, or sent again; the lake stays what it is.

re-decide     old answers, by the present policy, validator and supervision     `flows.replays.redecide`
re-ask        the same questions to the present models                          `flows.replays.reask`
redrive       dead letters back onto Kafka, as the next generation of their id  `flows.replays.redrive`
"""
