"""Measurements on a whole system of its own; figures are told beside a raw limit taken in the same run, since machines differ and are noisy."""
