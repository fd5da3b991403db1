"""The configuration of Sphinx. `make site` builds the site into build/site; warnings are errors."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path

import cpool

project = "cpool"
author = "the cpool authors"
copyright = author
release = version = cpool.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["*.py"]

html_theme = "furo"
html_title = f"cpool {release}"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]

# In docstrings a name in single backticks becomes a link if this site or Python's has the object.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
autodoc_type_aliases = {"AsyncResult": "AsyncResult", "CallOptions": "CallOptions"}

# The objects of Python's documentation that pages and docstrings link to. Listed here instead of
# fetched, so that the site builds without a network.
PYTHON = {
    "library/asyncio-task": ["asyncio.gather:function"],
    "library/concurrent.futures": [
        "concurrent.futures.BrokenExecutor:exception",
        "concurrent.futures.CancelledError:exception",
        "concurrent.futures.Future:class",
        "concurrent.futures.ProcessPoolExecutor:class",
        "concurrent.futures.ThreadPoolExecutor:class",
        "concurrent.futures.process.BrokenProcessPool:exception",
        "concurrent.futures.thread.BrokenThreadPool:exception",
    ],
    "library/exceptions": [
        f"{name}:exception"
        for name in (
            "BaseException Exception ImportError KeyboardInterrupt OSError RuntimeError"
            " StopIteration SystemExit TimeoutError TypeError ValueError"
        ).split()
    ],
    "library/functions": ["map:function", "bool:class", "repr:function"],
    "library/multiprocessing": [
        "multiprocessing.TimeoutError:exception",
        "multiprocessing.pool.AsyncResult:class",
        "multiprocessing.pool.Pool:class",
        "multiprocessing.pool.ThreadPool:class",
    ],
    "library/stdtypes": ["int:class", "str:class", "list:class", "dict:class", "tuple:class"],
    "library/sys": ["sys.unraisablehook:function"],
}


def python_inventory() -> str:
    """Write these names as a Sphinx inventory file, and return its path."""
    lines = [
        f"{name} py:{kind} 1 {page}.html#$ -\n"
        for page, entries in PYTHON.items()
        for name, _, kind in (entry.rpartition(":") for entry in entries)
    ]
    head = (
        "# Sphinx inventory version 2\n# Project: Python\n# Version: 3\n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    path = Path(tempfile.gettempdir()) / f"cpool-python-{cpool.__version__}.inv"
    path.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
    return str(path)


intersphinx_mapping = {"python": ("https://docs.python.org/3", python_inventory())}
