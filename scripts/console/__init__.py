"""What a command tells while it works: progress, skipped files, training curves."""
