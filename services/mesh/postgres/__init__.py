"""PostgreSQL as every service uses it: connections, transactions, migrations, read replicas and shards."""
