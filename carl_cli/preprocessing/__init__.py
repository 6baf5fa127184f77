"""From images as they were stored to what a network sees; `carl_cli.preprocess` is the door."""
