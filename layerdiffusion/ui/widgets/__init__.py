"""The page's own components."""
