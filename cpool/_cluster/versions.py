"""The versions of packages that must be the same everywhere in a cluster."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

__all__ = ["DISTRIBUTION", "PACKAGES", "mismatches", "say", "versions"]

DISTRIBUTION = "cpool-mp"  # cpool's name on PyPI

# For Python the minor version must match, for the others the whole version.
PACKAGES = ("python", "cpool", "dask", "distributed")

Mismatch = tuple[str, str, str, str]


def _version(package: str) -> str:
    if package == "python":
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    if package == "cpool":
        from .. import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def versions() -> dict[str, str]:
    """The versions in this process."""
    return {package: _version(package) for package in PACKAGES}


def mismatches(here: Mapping[str, str], there: Mapping[str, str], where: str) -> list[Mismatch]:
    """(where, package, version here, version there) for each package that differs."""
    return [
        (where, package, here[package], there.get(package, "none"))
        for package in PACKAGES
        if here[package] != there.get(package, "none")
    ]


def say(found: list[Mismatch]) -> str:
    """A message about mismatches, for an error or a warning."""
    parts = [
        f"{where} has {package} {there}, this program {here}"
        if there != "none"
        else f"{where} lacks {package}; this program has {here}"
        for where, package, here, there in found
    ]
    return f"{'; '.join(parts)}: install the same versions everywhere"
