"""Scores of registrations that lie on the disk, whoever made them. No torch."""
