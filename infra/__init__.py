"""Everything that knows a machine other than Kafka: settings, DynamoDB, Redis, HTTP, telemetry, the clock."""
