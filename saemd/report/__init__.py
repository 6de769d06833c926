"""What people look at: `report.html`, figures as PNG, tables for the terminal. Nothing is measured here."""
