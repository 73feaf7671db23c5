"""`verify`: whether a lake is what was written to it; every hash, chain, signature and link.

    log of each table -> seals, chained and signed         (seals)
    files             -> digests; rows -> hashes, roots    (files, in processes of their own)
    tables            -> links between them                (links)

All of it streams: what is held is a seal a commit, and a batch of rows.
"""

from one_lake.verify.report import FAULTS, Fault, Finding, Report
from one_lake.verify.run import verify

__all__ = ["FAULTS", "Fault", "Finding", "Report", "verify"]
