"""The write door: HTTP in, request event out; no money is decided here."""
