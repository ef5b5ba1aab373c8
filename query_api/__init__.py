"""The read door: views out, no rules."""
