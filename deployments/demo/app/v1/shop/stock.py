"""What is on sale."""

from typing import Any

from psycopg import Connection


def read_stock(connection: Connection, limit: int = 50) -> dict[str, Any]:
    rows = connection.execute(
        "SELECT sku, name, price_cents, stock, count(*) OVER () FROM products WHERE listed ORDER BY sku LIMIT %s",
        [limit],
    ).fetchall()
    products = [
        {"sku": sku, "name": name, "price_cents": price_cents, "stock": stock}
        for sku, name, price_cents, stock, _ in rows
    ]
    return {"listed": rows[0][4] if rows else 0, "products": products}
