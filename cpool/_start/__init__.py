"""Starting worker processes: start methods, Popen classes, the worker's main(). Private."""
