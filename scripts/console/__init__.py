"""What a command tells while it works: progress, skipped files, training curves; and what it finds around it."""
