"""One module for each dialect of transform files; `carl_cli.io.transforms.files` chooses."""
