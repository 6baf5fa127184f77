"""One module for each family of point files; `carl_cli.io.points.files` chooses."""
