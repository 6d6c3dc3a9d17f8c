"""Ranks at work: communicators, launching, failure, the step loop."""
