"""The Kafka adapters: topics, transactions, replay, membership, and the owners of partitions."""
