"""What the gateway costs and how fast it answers, beside other gateways on the same machine."""
