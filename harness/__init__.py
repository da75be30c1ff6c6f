"""From a grid to finished trials: decides, submits and records. Nothing is imported here, so that every door opens fast."""
