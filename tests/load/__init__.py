"""What the platform costs under load: CPU per unit of work, held against the cheapest thing that could do the same."""
