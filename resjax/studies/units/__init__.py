"""What one unit does: how near it is to the identity, how it learns to be, how it is put in."""
