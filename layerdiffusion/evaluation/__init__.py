"""How well the models, the method and its rivals do, in numbers."""
