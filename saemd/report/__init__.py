"""What people look at: `report.html`, figures as PNG, tables for the terminal.

It reads the records of `saemd.stability` and `saemd.quality` and measures nothing itself. matplotlib is imported when
the first figure is drawn.
"""
