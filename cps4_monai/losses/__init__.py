"""Losses of both stages as functions of tensors."""
