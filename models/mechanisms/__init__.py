"""How the noise of each law is drawn."""
