"""What there is below `/-/api/v1/`: one table of operations, and what answers those that read."""
