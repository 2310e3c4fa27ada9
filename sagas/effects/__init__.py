"""What the shop does outside: payments and parcels."""
