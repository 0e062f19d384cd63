"""Orders: what was asked for, placing one, listing the last ones."""

from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from shop.customers import greeting


class NotFoundError(Exception):
    """There is no such product or customer."""


class OutOfStockError(Exception):
    """There are not enough of it."""


@dataclass(frozen=True)
class OrderRequest:
    sku: str
    quantity: int
    customer_id: int = 1  # orders without an account
    note: str = ""
    reference: str | None = None

    @classmethod
    def from_json(cls, body: object) -> "OrderRequest":
        """Check what a client sent; ValueError says what is wrong with it."""
        if not isinstance(body, dict) or not isinstance(body.get("sku"), str):
            raise ValueError("sku: a text is needed")
        quantity = body.get("quantity")
        if not isinstance(quantity, int) or not 1 <= quantity <= 100:
            raise ValueError("quantity: a number from 1 to 100 is needed")
        customer_id = body.get("customer_id", 1)
        if not isinstance(customer_id, int):
            raise ValueError("customer_id: a number is needed")
        return cls(body["sku"], quantity, customer_id, str(body.get("note", "")), body.get("reference"))


def place_order(connection: Connection, request: OrderRequest) -> dict[str, Any]:
    customer = connection.execute("SELECT name FROM customers WHERE id = %s", [request.customer_id]).fetchone()
    if customer is None:
        raise NotFoundError(f"no customer {request.customer_id}")
    price_cents = _take_from_stock(connection, request)
    order_id = _insert_order(connection, request, price_cents)
    return {
        "id": order_id,
        "sku": request.sku,
        "quantity": request.quantity,
        "total_cents": price_cents * request.quantity,
        "message": greeting(customer[0]),
    }


def _take_from_stock(connection: Connection, request: OrderRequest) -> int:
    taken = connection.execute(
        "UPDATE products SET stock = stock - %s WHERE sku = %s AND listed AND stock >= %s RETURNING price_cents",
        [request.quantity, request.sku, request.quantity],
    ).fetchone()
    if taken is not None:
        return taken[0]
    if connection.execute("SELECT FROM products WHERE sku = %s AND listed", [request.sku]).fetchone() is None:
        raise NotFoundError(f"no product {request.sku}")
    raise OutOfStockError(f"not enough of {request.sku}")


def _insert_order(connection: Connection, request: OrderRequest, price_cents: int) -> int:
    (order_id,) = connection.execute(
        "INSERT INTO orders (customer_id, reference, total_cents, details) VALUES (%s, %s, %s, %s) RETURNING id",
        [request.customer_id, request.reference, price_cents * request.quantity, Jsonb({"note": request.note})],
    ).fetchone()
    connection.execute(
        "INSERT INTO order_items (order_id, line, sku, quantity, price_cents) VALUES (%s, 1, %s, %s, %s)",
        [order_id, request.sku, request.quantity, price_cents],
    )
    connection.execute("INSERT INTO order_events (order_id, event) VALUES (%s, 'placed')", [order_id])
    return order_id


def read_orders(connection: Connection, customer_id: int | None = None, limit: int = 20) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT id, customer, status::text, total_cents, ordered_at FROM order_summaries"
        " WHERE %s::bigint IS NULL OR customer_id = %s ORDER BY id DESC LIMIT %s",
        [customer_id, customer_id, limit],
    ).fetchall()
    return [
        {
            "id": order_id,
            "customer": customer,
            "status": status,
            "total_cents": total_cents,
            "ordered_at": ordered_at.isoformat(timespec="seconds"),
        }
        for order_id, customer, status, total_cents, ordered_at in rows
    ]
