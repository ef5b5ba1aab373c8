"""Shells that react to topics, and the pure core that they call."""
