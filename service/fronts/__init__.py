"""Several front processes on one port that are one service: docs/decisions/0014 says how."""
