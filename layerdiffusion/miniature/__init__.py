"""The toybox world and the training of every model in `assets/miniature`."""
