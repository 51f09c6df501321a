"""What is kept of earlier frames: features only."""
