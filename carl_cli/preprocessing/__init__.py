"""From stored images to what a network sees; `carl_cli.preprocessing.pair` is the door."""
