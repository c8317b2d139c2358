"""The page's event handlers."""
