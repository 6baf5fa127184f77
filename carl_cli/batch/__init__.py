"""What a batch is made of: its table, its shards, its status, its workers, its summary."""
