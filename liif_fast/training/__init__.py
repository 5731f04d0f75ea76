"""Training and evaluating models from published configurations."""
