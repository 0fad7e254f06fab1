"""References and stand-ins that several tests share."""
