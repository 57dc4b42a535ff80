"""Language models behind one interface: providers, prompt assembly, fallback, usage and cost."""
