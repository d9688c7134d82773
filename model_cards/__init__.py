"""The card of a converted checkpoint, as people read it on the Hub."""
