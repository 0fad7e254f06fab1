"""Everything that is added to or replaced in somebody else's package: one module a host, one table in each."""
