"""What was served and whether it is still right: the prediction log and what reads it."""
