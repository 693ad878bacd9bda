"""How paths are shown."""
