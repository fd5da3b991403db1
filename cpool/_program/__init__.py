"""Running whole programs on cpool. Private."""
