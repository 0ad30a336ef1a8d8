"""Quality and speed of translations; it knows no training and no HTTP."""
