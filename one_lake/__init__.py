"""ONE, the lake of converged records: Delta tables of Parquet files that anybody can query.

>>> import one_lake
>>> lake = one_lake.connect()  # doctest: +SKIP
>>> lake.sql("SELECT topic, count(*) FROM one GROUP BY topic")  # doctest: +SKIP
"""

from one_lake.query import connect, refresh

__all__ = ["connect", "refresh"]
