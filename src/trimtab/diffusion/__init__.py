"""Noise, noise schedules, training losses and samplers; knows no model and no method."""
