"""The SDK of DSX Hub."""
