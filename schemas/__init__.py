"""The nouns: everything a stranger could see on a wire or in a table."""
