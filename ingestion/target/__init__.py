"""target-warehouse: from Singer messages into raw, exactly once; and the replay of quarantined records."""
