"""The ordered steps of one rank."""
