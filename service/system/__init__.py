"""The service's use of the operating system: processes, signals, streams, variables."""
