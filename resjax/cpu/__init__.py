"""Speed on CPUs: fast convolutions, batches shared by cores, fast and cached compilation."""
