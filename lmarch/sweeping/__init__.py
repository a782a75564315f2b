"""Sweeps: a search space over one config, its trials in an Optuna study, and the workers that run them."""
