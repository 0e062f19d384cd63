"""Who buys."""

from typing import Any

from psycopg import Connection


def greeting(name: str) -> str:
    return f"Thank you, {name}."


def read_customer(connection: Connection, customer_id: int) -> dict[str, Any] | None:
    row = connection.execute("SELECT id, name FROM customers WHERE id = %s", [customer_id]).fetchone()
    return None if row is None else dict(zip(("id", "name"), row, strict=True))
