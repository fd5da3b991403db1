"""Pool and ThreadPool on the extension, their results and threads. Private: see cpool.pool."""
