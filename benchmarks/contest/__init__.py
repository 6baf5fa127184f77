"""Pairs, contenders and figures of the validation table; see benchmarks/validation.py."""
