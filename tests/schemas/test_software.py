"""Which version of Aureon this is."""

import importlib.metadata

import pytest

from schemas.software import software_version


def test_what_runs_without_being_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder of sources, for example; what is decided there is kept with that."""

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    assert software_version().startswith("aureon ")
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert software_version.__wrapped__() == "aureon unknown: not installed"
