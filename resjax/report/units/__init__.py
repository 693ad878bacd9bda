"""How single units are shown."""
