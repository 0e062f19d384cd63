import json
import logging
import os
import unittest

import psycopg

from shop import pages, tokens
from shop.customers import greeting
from shop.log import JsonFormatter
from shop.orders import OrderRequest
from shop.settings import Settings
from shop.stock import read_stock


class Tokens(unittest.TestCase):
    def test_a_token_verifies_with_its_secret_only(self) -> None:
        token = tokens.sign({"sub": "ada"}, "secret")
        self.assertTrue(tokens.verify(token, "secret"))
        self.assertFalse(tokens.verify(token, "another"))


class Orders(unittest.TestCase):
    def test_a_good_request_is_taken(self) -> None:
        self.assertEqual(OrderRequest.from_json({"sku": "SKU-0001", "quantity": 2}), OrderRequest("SKU-0001", 2))

    def test_a_bad_request_is_refused(self) -> None:
        for body in ([], {}, {"sku": "SKU-0001"}, {"sku": "SKU-0001", "quantity": 0}, {"sku": 1, "quantity": 1}):
            with self.subTest(body=body), self.assertRaises(ValueError):
                OrderRequest.from_json(body)


class Pages(unittest.TestCase):
    def test_text_is_escaped(self) -> None:
        self.assertIn("&lt;b&gt;", pages.orders_page("v1", "<b>", []))

    def test_a_customer_is_thanked(self) -> None:
        self.assertTrue(greeting("Ada Lovelace").startswith("Thank you, "))


class Environment(unittest.TestCase):
    def test_missing_secrets_are_named(self) -> None:
        self.assertEqual(len(Settings.from_environment({}).authentication_problems()), 3)

    def test_a_log_line_is_json(self) -> None:
        record = logging.LogRecord("shop", logging.INFO, "", 0, "GET %s", ("/",), None)
        self.assertEqual(json.loads(JsonFormatter().format(record))["message"], "GET /")


@unittest.skipUnless("DATABASE_URL" in os.environ, "needs a migrated database in DATABASE_URL")
class Stock(unittest.TestCase):
    def test_what_the_migrations_put_on_sale_is_listed(self) -> None:
        with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            stock = read_stock(connection, limit=3)
        self.assertEqual(len(stock["products"]), 3)


if __name__ == "__main__":
    unittest.main()
