"""What is on sale."""

import os
from typing import Any

from psycopg import Connection

SOLD = """
    SELECT i.sku, sum(i.quantity)
    FROM order_items i JOIN orders o ON o.id = i.order_id
    WHERE o.ordered_at > now() - make_interval(days => %s)
    GROUP BY i.sku
"""


def days_left(stock: int, sold: int, days: int) -> int:
    return stock * days // max(sold, 1)


def read_stock(connection: Connection, limit: int = 50) -> dict[str, Any]:
    rows = connection.execute(
        "SELECT sku, name, price_cents, stock, count(*) OVER () FROM products WHERE listed ORDER BY sku LIMIT %s",
        [limit],
    ).fetchall()
    days = int(os.environ["STOCK_HORIZON_DAYS"])
    sold = dict(connection.execute(SOLD, [days]).fetchall())
    products = [
        {
            "sku": sku,
            "name": name,
            "price_cents": price_cents,
            "stock": stock,
            "lasts_days": days_left(stock, sold.get(sku, 0), days),
        }
        for sku, name, price_cents, stock, _ in rows
    ]
    (low,) = connection.execute(
        "SELECT count(*) FROM stock_alerts a JOIN products p USING (sku) WHERE p.stock < a.threshold"
    ).fetchone()
    return {"listed": rows[0][4] if rows else 0, "running_low": low, "products": products}
