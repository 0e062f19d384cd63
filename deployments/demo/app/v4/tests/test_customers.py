import unittest

from shop.customers import greeting


class Customers(unittest.TestCase):
    def test_a_customer_is_greeted_by_the_initials(self) -> None:
        self.assertEqual(greeting("Ada Lovelace"), "Thank you, A. L.")


if __name__ == "__main__":
    unittest.main()
