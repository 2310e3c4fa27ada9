"""PostgreSQL adapters: read models, their positions, and what tells readers about them."""
