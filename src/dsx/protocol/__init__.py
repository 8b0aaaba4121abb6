"""What the hub and the SDK agree on: names, hashes and wire models. Pure: nothing here does I/O."""
