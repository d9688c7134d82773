"""To the Hub: who may, what goes, and whether it has arrived."""
