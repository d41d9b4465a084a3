"""Videos that the checkout makes itself: small clips, and a toy world with questions and known answers."""
