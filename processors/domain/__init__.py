"""Pure rules: no async, no I/O, no clock, no chance."""
