"""Names that arrive from outside: environments, backup ids, git refs. Checked before they touch a path or a command."""
