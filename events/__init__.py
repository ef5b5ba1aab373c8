"""Everything that knows Kafka: envelope, topics, publishing, consuming."""
