"""HTML."""

from html import escape
from typing import Any

STYLE = (
    "body{font:16px sans-serif;margin:2rem;background:#eef6ff;color:#123}"
    "table{border-collapse:collapse}td,th{padding:.2rem .6rem}"
)


def _table(columns: dict[str, str], rows: list[dict[str, Any]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in columns.values())
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(row[column]))}</td>" for column in columns) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _page(title: str, version: str, content: str) -> str:
    return (
        f"<!doctype html><title>{escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{escape(title)}</h1>{content}<footer>shop {escape(version)}</footer>"
    )


def orders_table(orders: list[dict[str, Any]]) -> str:
    return _table(
        {"id": "Order", "customer": "Customer", "channel": "Channel", "status": "Status", "total_cents": "Cents"},
        orders,
    )


def home_page(version: str, stock: dict[str, Any], orders: list[dict[str, Any]]) -> str:
    products = _table({"sku": "Product", "name": "Name", "price_cents": "Cents", "stock": "Stock"}, stock["products"])
    return _page(
        "Shop",
        version,
        f"<h2>Last orders</h2>{orders_table(orders)}"
        f"<h2>Stock ({stock['listed']} products, {stock['running_low']} running low)</h2>{products}",
    )


def orders_page(version: str, welcome: str, orders: list[dict[str, Any]]) -> str:
    return _page("Orders", version, f"<p>{escape(welcome)}</p>{orders_table(orders)}")
