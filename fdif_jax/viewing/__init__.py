"""Pictures: traced surfaces, slices, curves and pages."""
