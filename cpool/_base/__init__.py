"""Modules that the extension itself imports, or that need no extension. Private."""
