"""ONE, the lake of converged records: Delta tables of Parquet files that anybody can query.

>>> import one_lake
>>> lake = one_lake.connect()  # doctest: +SKIP
>>> lake.sql("SELECT topic, count(*) FROM one GROUP BY topic")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from one_lake.query import connect, refresh

__all__ = ["connect", "refresh"]


def __getattr__(name: str) -> Any:
    """Import DuckDB for those who ask: it takes as long as all else together."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from one_lake import query  # noqa: PLC0415

    return getattr(query, name)
