"""The parts behind `carl_cli.transform`; import from there."""
