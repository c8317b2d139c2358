"""Benches: the edits that methods are compared on."""
