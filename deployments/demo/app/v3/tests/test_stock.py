import unittest

from shop.stock import days_left


class Stock(unittest.TestCase):
    def test_stock_lasts_as_long_as_it_sells(self) -> None:
        self.assertEqual(days_left(100, 10, days=1), 10)


if __name__ == "__main__":
    unittest.main()
