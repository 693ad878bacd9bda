"""The report: runs the studies, keeps finished results, writes the HTML page, the figures and the data."""
