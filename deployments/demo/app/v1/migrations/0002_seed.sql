-- Every second customer is a company with one word for a name.
INSERT INTO customers (name, email, phone, created_at)
SELECT CASE WHEN n % 2 = 1
            THEN (ARRAY['Ada', 'Grace', 'Edsger', 'Barbara', 'Tony'])[1 + n / 2 % 5] || ' '
                 || (ARRAY['Lovelace', 'Hopper', 'Dijkstra', 'Liskov', 'Hoare', 'Knuth', 'Lamport'])[1 + n / 2 % 7]
            ELSE (ARRAY['Contoso', 'Fabrikam', 'Northwind', 'Initech'])[1 + n / 2 % 4] || '-' || n
       END,
       'customer-' || n || '@example.com',
       '+49 30 ' || lpad((n * 7919 % 1000000)::text, 6, '0'),
       timestamptz '2025-01-01 00:00:00+00' + n * interval '1 hour'
FROM generate_series(1, 200) AS n
ORDER BY n;

-- 240 products are on sale, the last 60 are seasonal and not listed at the moment.
INSERT INTO products (sku, name, price_cents, stock, listed)
SELECT 'SKU-' || lpad(n::text, 4, '0'),
       (ARRAY['Lamp', 'Chair', 'Desk', 'Shelf', 'Mug', 'Rug'])[1 + n % 6] || ' ' || n,
       150 + n * 37 % 4000,
       1000000,
       n <= 240
FROM generate_series(1, 300) AS n;

INSERT INTO orders (customer_id, status, details, ordered_at)
SELECT 1 + n * 13 % 200,
       (ARRAY['paid', 'shipped', 'delivered', 'delivered'])[1 + n % 4]::order_status,
       jsonb_build_object('gift', n % 17 = 0, 'note', 'seed ' || n),
       timestamptz '2025-02-01 00:00:00+00' + n * interval '47 minutes'
FROM generate_series(1, 4000) AS n
ORDER BY n;

INSERT INTO order_items (order_id, line, sku, quantity, price_cents)
SELECT o.id, line, p.sku, 1 + (o.id + line) % 3, p.price_cents
FROM orders o
CROSS JOIN LATERAL generate_series(1, (1 + o.id % 3)::integer) AS line
JOIN products p ON p.sku = 'SKU-' || lpad((1 + (o.id * 31 + line * 101) % 300)::text, 4, '0');

-- Gifts cost nothing.
UPDATE orders
SET total_cents = (SELECT sum(line_cents) FROM order_items WHERE order_id = orders.id)
WHERE NOT (details->>'gift')::boolean;

INSERT INTO order_events (order_id, event, happened_at)
SELECT id, 'placed', ordered_at FROM orders ORDER BY id;
