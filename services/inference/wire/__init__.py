"""Translates between the contract and the model; checks only what the model cannot express."""
