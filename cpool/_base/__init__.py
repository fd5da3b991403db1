"""What stands below the extension: the stdlib's own pool, sizes, reports of failures. Private."""
