"""The Kafka adapters: topics, transactions, replay, group membership, and the owners of partitions."""
