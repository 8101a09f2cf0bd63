"""Migrations of the prediction log; `log_database.migrate` runs them."""
