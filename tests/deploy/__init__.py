"""The chart: what it renders, what it refuses, and whether what it renders is what the product understands."""
