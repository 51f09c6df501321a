"""What the integrations share: they differ in how a framework is called, not in what is done."""
