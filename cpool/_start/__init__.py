"""Starting a worker process, from its Process object to its main(). Private."""
