"""Convolutions: what runs them, what they keep between frames, and what is fused into them."""
