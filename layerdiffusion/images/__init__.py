"""Pictures, masks and layers."""
