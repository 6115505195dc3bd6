"""Reports: table, figures and HTML page, drawn from the files that a run left, without training anything again."""
