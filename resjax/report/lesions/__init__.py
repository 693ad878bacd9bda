"""How lesions are shown."""
