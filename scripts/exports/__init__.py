"""Fine-tuned networks written whole: with how scans are prepared, for programs that are not ours."""
