"""A package, so that the commands of the zoos find the laws that stand here."""
