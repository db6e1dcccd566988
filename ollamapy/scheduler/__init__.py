"""Which models are resident."""
