"""`scripts/erase-user`: what is personal of one person leaves every place where the warehouse keeps it."""
