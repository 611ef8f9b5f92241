"""What people look at: contact sheets, progress, tables."""
