"""What a run leaves for people: the JSON record, the figure and the HTML pages."""
