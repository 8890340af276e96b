"""What the service needs of the operating system: processes, signals, streams, variables."""
