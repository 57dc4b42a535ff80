"""Tools for contributors: environments, locks, generated code and gates. They import nothing of the product."""
