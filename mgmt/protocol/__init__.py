"""The ground floor: what daemon, clients and backends say to each other."""
