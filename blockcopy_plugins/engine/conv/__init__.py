"""Convolutions: who runs them, what they keep between frames, what they take along."""
